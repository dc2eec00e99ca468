// A reader's gaze over a film, up to a moment.

import {shape} from "./elements.js";

/** Fixations that began within so many seconds are drawn stronger. */
const RECENT = 2;
/** Area grows with duration; a fixation of a quarter of a second has this share of the film's longer side as radius. */
const RADIUS = 0.014;

export class Scanpath {
  constructor(svg) {
    this.svg = svg;
    // What was marked lies in the same picture, and stays where the path changes.
    this.group = shape("g");
    svg.append(this.group);
    this.clear();
  }

  clear() {
    this.group.replaceChildren();
    this.events = null;
  }

  /** @param events columns t, duration, x, y (s, pixels of the film) @param kind fixation or sample */
  show(events, kind, height, width) {
    frame(this.svg, height, width);
    this.events = events;
    this.path = shape("polyline", {class: "saccade"});
    this.circles = [];
    const side = Math.max(height, width);
    if (kind === "fixation") {
      this.circles = events.t.map((_, index) => shape("circle", {
        class: "fixation", visibility: "hidden", cx: events.x[index], cy: events.y[index],
        r: RADIUS * side * Math.sqrt(events.duration[index] / 0.25),
      }));
    }
    this.dot = shape("circle", {class: "gaze", r: 0.008 * side});
    this.group.replaceChildren(this.path, ...this.circles, this.dot);
    this.at(0);
  }

  /** Shows what was looked at up to a moment; returns how many fixations or samples that are. */
  at(time) {
    const {t, x, y} = this.events;
    const begun = count(t, time);
    const points = [];
    for (let index = 0; index < begun; index++) points.push(`${x[index]},${y[index]}`);
    const dot = this.position(begun, time);
    if (dot) points.push(dot.join(","));
    this.path.setAttribute("points", points.join(" "));
    this.circles.forEach((circle, index) => {
      circle.setAttribute("visibility", index < begun ? "visible" : "hidden");
      circle.classList.toggle("recent", index < begun && t[index] > time - RECENT);
    });
    this.dot.setAttribute("visibility", dot ? "visible" : "hidden");
    if (dot) {
      this.dot.setAttribute("cx", dot[0]);
      this.dot.setAttribute("cy", dot[1]);
    }
    return begun;
  }

  /** Where the eye is: on a fixation, or between two of them. */
  position(begun, time) {
    const {t, duration, x, y} = this.events;
    if (!begun) return null;
    const last = begun - 1;
    const leaves = t[last] + duration[last];
    if (time <= leaves || begun === t.length) return [x[last], y[last]];
    const share = (time - leaves) / Math.max(t[begun] - leaves, 1e-6);
    return [x[last] + share * (x[begun] - x[last]), y[last] + share * (y[begun] - y[last])];
  }
}

/** What was marked on a film: boxes, and ellipses inscribed in them. */
export function marks(svg, regions, height, width) {
  frame(svg, height, width);
  for (const old of svg.querySelectorAll(".mark")) old.remove();
  for (const {shape: kind, x1, y1, x2, y2} of regions) {
    svg.append(kind === "ellipse"
      ? shape("ellipse", {class: "mark", cx: (x1 + x2) / 2, cy: (y1 + y2) / 2, rx: (x2 - x1) / 2, ry: (y2 - y1) / 2})
      : shape("rect", {class: "mark", x: x1, y: y1, width: x2 - x1, height: y2 - y1}));
  }
}

/** Pixel centres are at whole numbers. */
function frame(svg, height, width) {
  svg.setAttribute("viewBox", `-0.5 -0.5 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
}

/** How many of some ordered times have come. */
function count(times, time) {
  let low = 0;
  let high = times.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] <= time) low = middle + 1;
    else high = middle;
  }
  return low;
}
