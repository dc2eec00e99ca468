// The page that browses a store.

import {get, post, remove} from "./api.js";
import {byId, element, fill, probabilities, say} from "./elements.js";
import {ExpectedScanpath} from "./expected.js";
import {Display, FilmView, legend} from "./film.js";
import {Player} from "./player.js";
import {marks} from "./scanpath.js";

const SORTS = {
  row: "number", seconds: "most gaze first", distance: "furthest from the label first",
  cc: "least agreement with the readers first", probability: "highest probability first",
};
const ALL = "all";

export function startBrowsing(about) {
  const {store, model} = about;
  const views = [new FilmView(byId("readers-film"), about.colours), new FilmView(byId("predicted-film"), about.colours)];
  const display = new Display(byId("case-display"), views, about.opacity);
  const player = new Player();
  const expected = new ExpectedScanpath(byId("expected-scanpath"), byId("expected-reader"));
  const filters = byId("filters");
  const choose = (name) => filters.elements.namedItem(name);
  let page = 0;
  let list = {cases: [], total: 0};
  let shown = null;

  byId("store-facts").textContent =
    `${store.cases} films of ${store.source}${store.synthetic ? " (synthetic)" : ""}, numbered as gazelit inspect does.`;
  say(byId("split-note"), store.split_note);
  fill(choose("label"), [["", "any"], ...store.labels.map((name) => [name, name])]);
  fill(choose("split"), [["", "any"], ...store.splits.map((name) => [name, name])]);
  choose("split").parentElement.hidden = !store.splits.length;
  fill(choose("class"), store.classes.map((name) => [name, name]));
  const sorts = Object.entries(SORTS).filter(([name]) => model || ["row", "seconds"].includes(name));
  fill(choose("sort"), sorts.filter(([name]) => name !== "probability" || store.classes.length));
  byId("score-filters").hidden = byId("survey").hidden = !model;
  byId("predicted-figure").hidden = !model;
  choose("class").closest("label").hidden = choose("low").closest(".pair").hidden = !store.classes.length;

  async function load() {
    const query = new URLSearchParams({page});
    for (const {name, value, disabled} of filters.elements) if (name && value && !disabled) query.set(name, value);
    try {
      list = await get(`/api/cases?${query}`);
      write();
    } catch (error) {
      byId("found").textContent = error.message;
    }
  }

  function write() {
    const scored = Boolean(model);
    const probability = scored && store.classes.length ? choose("class").value : "";
    const headings = [["Film"], ["Label"], ...(store.splits.length ? [["Split"]] : []),
      ...(probability ? [["p", `probability of ${probability}`]] : []),
      ...(scored ? [["Distance", "between probabilities and labels"], ["CC", "with the readers' map"]] : []),
      ["Gaze", "seconds"]];
    const numbers = headings.length - (store.splits.length ? 3 : 2);
    byId("cases").tHead.rows[0].replaceChildren(...headings.map(([text, title], index) => element("th", {
      scope: "col", textContent: text, title: title ?? "", className: index >= headings.length - numbers ? "number" : ""})));
    byId("cases").tBodies[0].replaceChildren(...list.cases.map((entry) => {
      const button = element("button", {type: "button", textContent: entry.row, "aria-label": `Film ${entry.row}`});
      button.addEventListener("click", () => open(entry.row));
      const values = [...(probability ? [entry.probability] : []), ...(scored ? [entry.distance, entry.cc] : [])];
      const labels = entry.labels.join(", ") || "–";
      return element("tr", {className: entry.row === shown?.row ? "chosen" : ""},
        element("td", {}, button),
        element("td", {className: "labels", textContent: labels, title: labels}),
        ...(store.splits.length ? [element("td", {textContent: entry.split || "–"})] : []),
        ...values.map((value) => element("td", {className: "number", textContent: value === null ? "–" : value.toFixed(2)})),
        element("td", {className: "number", textContent: entry.seconds === null ? "–" : `${entry.seconds.toFixed(0)} s`}));
    }));
    const pages = Math.max(1, Math.ceil(list.total / store.page));
    byId("found").textContent = `${list.total} film${list.total === 1 ? "" : "s"} found`;
    byId("page-number").textContent = `${list.page + 1} of ${pages}`;
    byId("page-before").disabled = list.page === 0;
    byId("page-after").disabled = list.page + 1 >= pages;
    byId("pager").hidden = pages === 1;
    follow(list.survey);
  }

  function turn(by) {
    page = Math.max(0, page + by);
    return load();
  }

  // What the model says of all films, which the filters and the order need.
  let timer = null;
  function follow(survey) {
    const {read, cases, under_way: underWay, error} = survey;
    byId("survey-toggle").textContent = underWay ? "Stop" : read && read < cases ? "Read the other films" : "Read all films with the model";
    byId("survey-toggle").hidden = !underWay && read >= cases;
    byId("survey-progress").hidden = !underWay;
    byId("survey-progress").value = read / cases;
    byId("survey-words").textContent = error || (read ? `The model has read ${read} of ${cases} films.` : "Filters by what the model says need it.");
    clearTimeout(timer);
    if (underWay) timer = setTimeout(load, 1500);
  }

  byId("survey-toggle").addEventListener("click", async () => {
    try {
      const {under_way: underWay} = list.survey;
      list.survey = underWay ? await remove("/api/survey") : await post("/api/survey");
      follow(list.survey);
    } catch (error) {
      byId("survey-words").textContent = error.message;
    }
  });

  let turns = 0;
  let opened = null;
  async function open(row, reading = ALL, focus = true) {
    const own = ++turns;
    opened = row;
    try {
      const found = await get(`/api/cases/${row}${reading === ALL ? "" : `?reading=${reading}`}`);
      if (own === turns) show(found, reading, focus);
    } catch (error) {
      byId("case").hidden = false;
      say(byId("case-error"), error.message);
    }
  }

  function show(found, reading, focus) {
    const isNew = found.row !== shown?.row;
    shown = found;
    say(byId("case-error"), "");
    byId("case").hidden = false;
    const known = [found.split, found.labels.join(", ")].filter(Boolean).join(" · ");
    byId("case-title").textContent = `Film ${found.row}${known ? ` · ${known}` : ""}`;
    views[0].show(found.film, found.maps.readers);
    views[1].show(found.film, found.maps.predicted);
    display.hasMap(Boolean(found.maps.readers || found.maps.predicted));
    legend(byId("case-legend"), about.colours,
      {"readers' map": found.maps.readers, prediction: found.maps.predicted, end: found.maps.end});
    if (isNew) {
      const people = found.readings.map(({reader, is_peer: isPeer}, number) => [number, isPeer ? `${reader} (not trained on)` : reader]);
      const trainedOn = found.readings.filter(({is_peer: isPeer}) => !isPeer).length;
      fill(byId("reader"), trainedOn > 1 ? [[ALL, `all ${trainedOn} readers' map`], ...people] : people, String(reading));
      if (trainedOn <= 1 && people.length) byId("reader").value = "0";
      const names = [...new Set(found.regions.map(({name}) => name))];
      fill(byId("marks"), [["", "nothing"], ["*", "all"], ...names.map((name) => [name, name])]);
      byId("marks-label").hidden = !names.length;
    }
    byId("player").hidden = !found.readings.length;
    const chosen = byId("reader").value;
    // Of all readers' map, the scanpath is the first one's.
    player.show(found.readings[chosen === ALL ? 0 : Number(chosen)] ?? null, found.height, found.width);
    const who = chosen === ALL ? "All readers' map" : found.readings[Number(chosen)]?.reader ?? "No gaze";
    byId("readers-caption").textContent = chosen === ALL ? `${who}, scanpath of ${found.readings[0].reader}` : who;
    const {prediction, scores} = found;
    expected.show(prediction);
    mark();
    byId("case-warnings").replaceChildren(...(prediction?.warnings ?? []).map((line) => element("li", {textContent: line})));
    byId("case-probabilities").replaceChildren(...(prediction ? [probabilities(prediction, model, found.labels)] : []));
    byId("case-probabilities").parentElement.hidden = !prediction;
    const words = {distance: "distance from the label", cc: "CC", nss: "NSS"};
    const agreement = Object.entries(words).filter(([name]) => name in scores).map(([name, text]) => `${text} ${scores[name].toFixed(2)}`);
    byId("case-scores").textContent = agreement.length ? `${agreement.join(" · ")}${"cc" in scores ? " (against all readers that models are trained on)" : ""}` : "";
    for (const line of byId("cases").tBodies[0].rows) {
      line.classList.toggle("chosen", line.querySelector("button").textContent === String(found.row));
    }
    if (isNew && focus) byId("case-title").focus();
  }

  function mark() {
    const chosen = byId("marks").value;
    const regions = shown.regions.filter(({name}) => chosen && (chosen === "*" || name === chosen));
    for (const id of ["scanpath", "expected-scanpath"]) marks(byId(id), regions, shown.height, shown.width);
  }

  async function step(by) {
    const index = list.cases.findIndex(({row}) => row === opened);
    const next = index < 0 ? 0 : index + by;
    if (next >= 0 && next < list.cases.length) return open(list.cases[next].row, ALL, false);
    const pages = Math.ceil(list.total / store.page);
    if ((next < 0 && page === 0) || (next > 0 && page + 1 >= pages)) return undefined;
    await turn(by);
    return list.cases.length ? open(list.cases.at(by > 0 ? 0 : -1).row, ALL, false) : undefined;
  }

  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("change", () => {
    page = 0;
    load();
  });
  byId("page-before").addEventListener("click", () => turn(-1));
  byId("page-after").addEventListener("click", () => turn(1));
  byId("case-before").addEventListener("click", () => step(-1));
  byId("case-after").addEventListener("click", () => step(1));
  byId("reader").addEventListener("change", () => open(shown.row, byId("reader").value, false));
  byId("marks").addEventListener("change", mark);
  return load;
}
