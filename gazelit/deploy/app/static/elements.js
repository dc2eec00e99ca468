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

/** A table of probabilities, with what several networks or the guards say of them, and the true labels marked. */
export function probabilities(prediction, model, labels = []) {
  const entries = Object.entries(prediction.probabilities).sort((a, b) => b[1] - a[1]);
  if (!entries.length) return element("p", {className: "hint", textContent: "The model predicts no classes."});
  const {spread} = prediction;
  const rows = entries.map(([name, value]) => {
    const deviation = spread?.deviations[name];
    const bar = shape("svg", {viewBox: "0 0 100 16", preserveAspectRatio: "none", "aria-hidden": "true"},
      shape("rect", {class: "bar-ground", width: 100, height: 16, rx: 2}),
      shape("rect", {class: "bar", width: 100 * value, height: 16, rx: 2}));
    if (deviation !== undefined) {
      const [low, high] = [Math.max(0, value - deviation), Math.min(1, value + deviation)];
      bar.append(shape("line", {class: "whisker", x1: 100 * low, x2: 100 * high, y1: 8, y2: 8}));
    }
    const words = deviation === undefined ? percent(value) : `${percent(value)} ± ${percent(deviation)}`;
    return element("tr", {className: labels.includes(name) ? "true" : ""},
      element("th", {scope: "row", textContent: name}),
      element("td", {className: "number", textContent: words}),
      element("td", {}, bar));
  });
  const caption = spread ? `Mean of ${spread.members} predictions ± SD` : "Probabilities";
  const table = element("table", {className: "probabilities"}, element("caption", {textContent: caption}), element("tbody", {}, ...rows));
  return element("div", {}, table, ...remarks(prediction, model).map((line) => element("p", {textContent: line})));
}

function remarks({spread, prediction_set: set}, {coverage}) {
  const lines = [];
  if (set) {
    const share = `At a coverage of ${(100 * coverage).toFixed(0)} %`;
    lines.push(Array.isArray(set) ? `${share} cannot be excluded: ${set.join(", ") || "nothing"}.`
      : `${share}: ${Object.entries(set).map(([name, state]) => `${name} ${state}`).join(", ")}.`);
  }
  if (spread) {
    const parts = [];
    if (spread.mutual_information !== null) parts.push(`mutual information ${spread.mutual_information.toFixed(3)} nats`);
    if (spread.map_correlation !== null) parts.push(`maps correlate with their mean by ${spread.map_correlation.toFixed(2)}`);
    if (parts.length) lines.push(`How far the predictions agree: ${parts.join("; ")}.`);
  }
  return lines;
}

const percent = (value) => `${(100 * value).toFixed(1)} %`;
