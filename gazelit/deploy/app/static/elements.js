// Small helpers to build parts of the page.

export const byId = (id) => document.getElementById(id);

/** An element with attributes (or properties of the same name) and children. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** The same of SVG, where all are attributes. */
export function shape(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Fills a select with [value, text] pairs and chooses one. */
export function fill(select, options, chosen = options[0]?.[0]) {
  select.replaceChildren(...options.map(([value, text]) => element("option", {value, textContent: text})));
  if (chosen !== undefined) select.value = chosen;
}

/** Shows an error's words where there are any, and hides the target where there are none. */
export function say(target, words) {
  target.textContent = words;
  target.hidden = !words;
}

/** A table of probabilities, with intervals where the model gives them, and the true labels marked where known. */
export function probabilities(prediction, labels = []) {
  const entries = Object.entries(prediction.probabilities).sort((a, b) => b[1] - a[1]);
  if (!entries.length) return element("p", {className: "hint", textContent: "The model predicts no classes."});
  const intervals = prediction.intervals ?? {};
  const rows = entries.map(([name, value]) => {
    const interval = intervals[name];
    const bar = shape("svg", {viewBox: "0 0 100 16", preserveAspectRatio: "none", "aria-hidden": "true"},
      shape("rect", {class: "bar-ground", width: 100, height: 16, rx: 2}),
      shape("rect", {class: "bar", width: 100 * value, height: 16, rx: 2}));
    if (interval) bar.append(shape("line", {class: "whisker", x1: 100 * interval[0], x2: 100 * interval[1], y1: 8, y2: 8}));
    const words = interval ? `${percent(value)} (${percent(interval[0])} to ${percent(interval[1])})` : percent(value);
    return element("tr", {className: labels.includes(name) ? "true" : ""},
      element("th", {scope: "row", textContent: name}),
      element("td", {className: "number", textContent: words}),
      element("td", {}, bar));
  });
  return element("table", {className: "probabilities"},
    element("caption", {textContent: Object.keys(intervals).length ? "Probabilities with intervals" : "Probabilities"}),
    element("tbody", {}, ...rows));
}

const percent = (value) => `${(100 * value).toFixed(1)} %`;
