// Draws a film with window and level, and a map over it.

import {bytesOf} from "./api.js";
import {element} from "./elements.js";

const LARGEST = 65535;

/** A film on a canvas, pixel for pixel; the browser scales the canvas. */
export class FilmView {
  constructor(canvas, colours) {
    this.canvas = canvas;
    this.colours = colours;
    this.settings = {window: 1, level: 0.5, invert: false, opacity: 0};
    this.waiting = false;
  }

  /** @param film height, width and pixels (base64 of uint16) @param map heat (base64 of uint8), or null */
  show(film, map) {
    this.canvas.width = film.width;
    this.canvas.height = film.height;
    this.canvas.parentElement.style.setProperty("--aspect", film.width / film.height);
    this.pixels = new Uint16Array(bytesOf(film.pixels).buffer);
    this.heat = map ? bytesOf(map.heat) : null;
    this.draw();
  }

  set(settings) {
    this.settings = settings;
    if (this.waiting || !this.pixels) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  draw() {
    const {pixels, heat} = this;
    const grey = greyOf(this.settings);
    const opacities = opacitiesOf(this.settings.opacity);
    const context = this.canvas.getContext("2d");
    const image = context.createImageData(this.canvas.width, this.canvas.height);
    const out = image.data;
    for (let index = 0, at = 0; index < pixels.length; index++, at += 4) {
      const value = grey[pixels[index]];
      const opacity = heat ? opacities[heat[index]] : 0;
      if (opacity === 0) {
        out[at] = out[at + 1] = out[at + 2] = value;
      } else {
        const colour = this.colours[heat[index]];
        out[at] = value + opacity * (colour[0] - value);
        out[at + 1] = value + opacity * (colour[1] - value);
        out[at + 2] = value + opacity * (colour[2] - value);
      }
      out[at + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  }
}

/** Screen value (0 to 255) of each of the 65,536 values of a film. */
function greyOf({window, level, invert}) {
  const low = level - window / 2;
  const grey = new Uint8ClampedArray(LARGEST + 1);
  for (let value = 0; value <= LARGEST; value++) {
    const share = Math.min(1, Math.max(0, (value / LARGEST - low) / window));
    grey[value] = Math.round(255 * (invert ? 1 - share : share));
  }
  return grey;
}

/** Opacity by heat, as the overlays of gazelit infer have it: the slider says how opaque the end of the scale is. */
function opacitiesOf(most) {
  return Float32Array.from({length: 256}, (_, heat) => most * Math.sqrt(heat / 255));
}

/** The controls of window, level, opacity and size that some views share. */
export class Display {
  constructor(panel, views, opacity) {
    panel.append(document.getElementById("display-controls").content.cloneNode(true));
    this.panel = panel;
    this.views = views;
    this.first = {window: 1, level: 0.5, invert: false, opacity};
    panel.addEventListener("input", () => this.apply());
    this.control("reset").addEventListener("click", () => this.reset());
    for (const view of views) this.dragging(view.canvas);
    this.reset();
  }

  control(name) {
    return this.panel.querySelector(`[name=${name}]`);
  }

  /** Whether there is a map, whose opacity can be chosen. */
  hasMap(has) {
    this.control("opacity").disabled = !has;
  }

  reset() {
    for (const name of ["window", "level", "opacity"]) this.control(name).value = this.first[name];
    this.control("invert").checked = false;
    this.control("zoom").value = "1";
    this.apply();
  }

  apply() {
    const settings = {invert: this.control("invert").checked};
    for (const name of ["window", "level", "opacity"]) {
      settings[name] = Number(this.control(name).value);
      this.control(`${name}-words`).textContent = `${Math.round(100 * settings[name])} %`;
    }
    this.settings = settings;
    for (const view of this.views) {
      view.set(settings);
      view.canvas.parentElement.style.setProperty("--zoom", this.control("zoom").value);
    }
  }

  /** Dragging on a film with the mouse, as viewers have it: to the right a wider window, down a lower level. */
  dragging(canvas) {
    canvas.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "mouse" && event.button === 0) canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!canvas.hasPointerCapture(event.pointerId) || event.pointerType !== "mouse") return;
      const {width, height} = canvas.getBoundingClientRect();
      this.control("window").value = this.settings.window + event.movementX / width;
      this.control("level").value = this.settings.level - event.movementY / height;
      this.apply();
    });
    canvas.addEventListener("dblclick", () => this.reset());
  }
}

/** Says what the colours mean. */
export function legend(target, colours, maps) {
  const known = Object.entries(maps).filter(([, map]) => map?.heat);
  target.hidden = !known.length;
  if (!known.length) return;
  const bar = element("canvas", {width: 256, height: 1, "aria-hidden": "true"});
  const context = bar.getContext("2d");
  colours.forEach(([red, green, blue], index) => {
    context.fillStyle = `rgb(${red} ${green} ${blue})`;
    context.fillRect(index, 0, 1, 1);
  });
  const flat = known.filter(([, map]) => map.is_flat).map(([name]) => name);
  const words = flat.length ? ` · nearly flat: ${flat.join(", ")}` : "";
  target.replaceChildren("1 ×", bar, `${maps.end.toFixed(1)} × the uniform level${words}`);
}
