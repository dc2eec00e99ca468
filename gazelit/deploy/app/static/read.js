// The page that reads a film.

import {post} from "./api.js";
import {byId, element, probabilities, say} from "./elements.js";
import {ExpectedScanpath} from "./expected.js";
import {Display, FilmView, legend} from "./film.js";

export function startReading(about) {
  const view = new FilmView(byId("read-film"), about.colours);
  const display = new Display(byId("read-display"), [view], about.opacity);
  const expected = new ExpectedScanpath(byId("read-scanpath"), byId("read-reader"));
  const section = byId("read");
  let turn = 0;

  async function read(path, body, name) {
    const own = ++turn;
    say(byId("read-error"), "");
    byId("read-status").textContent = `Reading ${name} …`;
    section.setAttribute("aria-busy", "true");
    try {
      const reading = await post(path, body);
      if (own === turn) show(reading, name);
    } catch (error) {
      if (own !== turn) return;
      byId("read-status").textContent = "";
      byId("result").hidden = true;
      say(byId("read-error"), error.message);
    } finally {
      if (own === turn) section.removeAttribute("aria-busy");
    }
  }

  function readFile(file) {
    if (file.size > about.max_upload) {
      byId("read-status").textContent = "";
      say(byId("read-error"), `the film is larger than ${about.max_upload / 2 ** 20} MB`);
      return;
    }
    // The name of a file may be a patient's: it is neither sent nor shown.
    read("/api/readings", file, "the film");
  }

  function show(reading, name) {
    const {film, maps, prediction} = reading;
    byId("result").hidden = false;
    view.show(film, maps.predicted);
    display.hasMap(Boolean(maps.predicted));
    byId("read-film").setAttribute("aria-label", maps.predicted ? "Film with the predicted map" : "Film");
    legend(byId("read-legend"), about.colours, {predicted: maps.predicted, end: maps.end});
    byId("read-warnings").replaceChildren(...prediction.warnings.map((line) => element("li", {textContent: line})));
    byId("read-probabilities").replaceChildren(probabilities(prediction, about.model));
    byId("read-facts").textContent = `${prediction.height} × ${prediction.width} pixels; the network sees it at ` +
      `${about.model.size.join(" × ")}. Window and level are shares of the range that the film was read with.`;
    links(reading);
    expected.show(prediction);
    byId("read-status").textContent = prediction.warnings.length
      ? `Read ${name}: ${prediction.warnings.length} warning${prediction.warnings.length > 1 ? "s" : ""}.` : `Read ${name}.`;
  }

  let shown = null;

  function links(reading) {
    shown = reading;
    const objects = Object.entries(reading.objects);
    const profile = byId("deidentify").checked ? "?deidentified=1" : "";
    const files = [...(reading.maps.predicted ? [["overlay.png", "Overlay (PNG)"]] : []),
      ...objects.map(([kind, name]) => [`${kind}.dcm${profile}`, `${name} (DICOM)`])];
    byId("downloads").replaceChildren(...files.map(([file, text]) => element("li", {}, element("a", {
      className: "button", href: `/api/readings/${reading.id}/${file}`, download: file.split("?")[0], textContent: text}))));
    byId("downloads").previousElementSibling.hidden = !files.length;
    byId("deidentify-row").hidden = !objects.length;
  }

  byId("deidentify").addEventListener("change", () => links(shown));
  byId("examples").replaceChildren(...about.examples.map((name, number) => {
    const button = element("button", {type: "button", textContent: name});
    button.addEventListener("click", () => read(`/api/examples/${number}`, undefined, `the example ${name}`));
    return button;
  }));
  byId("file").addEventListener("change", (event) => {
    if (event.target.files.length) readFile(event.target.files[0]);
    // The same file may be chosen again.
    event.target.value = "";
  });
  // A file that misses the frame would replace the page.
  for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
  document.addEventListener("dragover", () => document.body.classList.add("over"));
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    document.body.classList.remove("over");
    const files = event.dataTransfer?.files ?? [];
    if (section.hidden || !files.length) return;
    if (files.length > 1) {
      say(byId("read-error"), "drop one film at a time; gazelit infer reads folders");
      return;
    }
    readFile(files[0]);
  });
}
