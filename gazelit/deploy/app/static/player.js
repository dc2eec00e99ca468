// Plays a reading: the scanpath, the time slider and what was said.

import {byId, element} from "./elements.js";
import {Scanpath} from "./scanpath.js";

export class Player {
  constructor() {
    this.scanpath = new Scanpath(byId("scanpath"));
    this.slider = byId("time");
    this.button = byId("play");
    this.slider.addEventListener("input", () => {
      this.pause();
      this.at(Number(this.slider.value));
    });
    this.button.addEventListener("click", () => (this.playing ? this.pause() : this.play()));
  }

  /** @param reading one of a case's readings, or null for none */
  show(reading, height, width) {
    this.pause();
    this.reading = reading;
    byId("play").disabled = this.slider.disabled = !reading;
    byId("phrases-block").hidden = !reading?.phrases.length;
    if (!reading) {
      this.scanpath.clear();
      byId("time-words").textContent = "";
      return;
    }
    this.scanpath.show(reading.events, reading.kind, height, width);
    this.slider.max = reading.seconds;
    byId("phrases").replaceChildren(...reading.phrases.map(({text, begin}) => {
      const button = element("button", {type: "button"}, element("span", {className: "clock", textContent: clock(begin)}), text);
      button.addEventListener("click", () => this.at(begin));
      return element("li", {}, button);
    }));
    // The whole path at first; playing begins at its start.
    this.at(reading.seconds);
  }

  at(time) {
    const {reading} = this;
    this.time = Math.min(time, reading.seconds);
    const begun = this.scanpath.at(this.time);
    this.slider.value = this.time;
    const total = reading.events.t.length;
    this.slider.setAttribute("aria-valuetext", `${this.time.toFixed(1)} of ${reading.seconds.toFixed(1)} seconds`);
    byId("time-words").textContent =
      `${this.time.toFixed(1)} of ${reading.seconds.toFixed(1)} s · ${reading.kind} ${begun} of ${total}`;
    [...byId("phrases").querySelectorAll("button")].forEach((button, index) => {
      const {begin, end} = reading.phrases[index];
      if (begin <= this.time && this.time <= end) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    });
  }

  play() {
    if (this.time >= this.reading.seconds) this.at(0);
    this.playing = true;
    this.button.textContent = "Pause";
    let before = performance.now();
    const step = (now) => {
      if (!this.playing) return;
      this.at(this.time + (now - before) / 1000 * Number(byId("speed").value));
      before = now;
      if (this.time >= this.reading.seconds) this.pause();
      else requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  pause() {
    this.playing = false;
    this.button.textContent = "Play";
  }
}

const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
