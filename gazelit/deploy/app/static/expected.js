// The expected scanpath over a film, of the reader whom a list offers.

import {fill} from "./elements.js";
import {Scanpath} from "./scanpath.js";

export class ExpectedScanpath {
  /** @param svg over the film @param select the list of readers, in a row that is hidden where there is no path */
  constructor(svg, select) {
    this.svg = svg;
    this.select = select;
    this.scanpath = new Scanpath(svg);
    select.addEventListener("change", () => this.draw());
  }

  /** @param prediction what the model says of a film, or null */
  show(prediction) {
    this.prediction = prediction;
    const paths = prediction?.scanpaths ?? [];
    this.select.closest(".expected").hidden = !paths.length;
    // A model's readers are the same of every film, and who was chosen stays chosen.
    if (paths.length && !this.select.options.length) {
      fill(this.select, [...paths.map(({reader}, number) => [number, reader ?? "an unknown reader"]), ["", "none: hide it"]]);
    }
    this.draw();
  }

  draw() {
    const events = this.prediction?.scanpaths[this.select.value];
    this.svg.setAttribute("aria-hidden", String(!events));
    if (!events) {
      this.scanpath.clear();
      return;
    }
    this.scanpath.show(events, "fixation", this.prediction.height, this.prediction.width);
    // All of it: at the end of its last fixation.
    this.scanpath.at(events.t.at(-1) + events.duration.at(-1));
  }
}
