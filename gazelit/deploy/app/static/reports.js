// The page that shows reports.

import {get} from "./api.js";
import {byId, element} from "./elements.js";

export function startReports() {
  return async function load() {
    let found;
    try {
      found = await get("/api/reports");
    } catch (error) {
      byId("reports-status").textContent = error.message;
      return;
    }
    byId("reports-status").textContent = found.length ? "" : "No run has a report yet: `gazelit report RUN` writes it.";
    byId("report-list").replaceChildren(...found.map(({name, written}) => {
      const button = element("button", {type: "button"}, name, " ", element("span", {className: "hint", textContent: written}));
      button.addEventListener("click", () => open(name, button));
      return element("li", {}, button);
    }));
    if (found.length && byId("report").hidden) byId("report-list").querySelector("button").click();
  };

  function open(name, button) {
    const address = `/reports/${name.split("/").map(encodeURIComponent).join("/")}`;
    for (const listed of byId("report-list").querySelectorAll("button")) listed.removeAttribute("aria-current");
    button.setAttribute("aria-current", "true");
    byId("report").hidden = byId("report-row").hidden = false;
    byId("report").title = `Report of ${name}`;
    byId("report").src = address;
    byId("report-alone").href = address;
  }
}
