// Starts the pages that this gazelit app has something for, and turns to the one that the address names.

import {about as askAbout} from "./api.js";
import {startBrowsing} from "./browse.js";
import {byId, say} from "./elements.js";
import {startReading} from "./read.js";
import {startReports} from "./reports.js";

async function start() {
  const about = await askAbout();
  const pages = {};
  if (about.model) {
    startReading(about);
    pages.read = () => {};
    byId("model").textContent = `${about.model.stage} · ${about.model.size.join(" × ")} · ${about.model.sha256.slice(0, 12)}`;
    say(byId("notice"), about.model.notice);
  }
  if (about.store) pages.browse = startBrowsing(about);
  if (about.reports) pages.reports = startReports();
  for (const link of document.querySelectorAll("nav a")) link.hidden = !(link.dataset.page in pages);

  function turn() {
    const named = location.hash.slice(1);
    // Such as the link that skips to the content.
    if (named && !(named in pages) && byId(named)) return;
    const name = named in pages ? named : Object.keys(pages)[0];
    for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== name;
    for (const link of document.querySelectorAll("nav a")) {
      if (link.dataset.page === name) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    document.title = `${byId(`${name}-title`).textContent} – gazelit`;
    pages[name]();
  }

  addEventListener("hashchange", turn);
  turn();
}

start().catch((error) => say(byId("failure"), error.message));
