// What the admin page does in the browser, beside Dash.
(() => {
  const SILENT_AFTER = 3; // updates that did not come

  const find = (id) => document.getElementById(id);
  const set = (id, props) => window.dash_clientside.set_props?.(id, props); // which Dash brings, with the page

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.userStoreAdmin = {
    // Where the list begins: at its first page, whenever something else is listed.
    offset: (previous, next, view, order, search, offset, page) => {
      const by = window.dash_clientside.callback_context.triggered_id;
      if (by === "previous") return Math.max(0, offset - page);
      return by === "next" ? offset + page : 0;
    },
  };

  // A page that is not looked at asks for nothing.
  document.addEventListener("visibilitychange", () => {
    answeredAt = Date.now();
    for (const id of ["tick", "slow-tick"]) set(id, { disabled: document.hidden });
  });

  // Say so when no answers come: the server may be down, or the operator logged out.
  let answer = null;
  let answeredAt = Date.now();
  setInterval(() => {
    const latest = find("answered")?.textContent;
    if (latest === undefined || document.hidden) return;
    if (latest !== answer) [answer, answeredAt] = [latest, Date.now()];
    const interval = Number(latest.split(" ")[1]) || 5000;
    find("silent").hidden = Date.now() - answeredAt < SILENT_AFTER * interval;
  }, 1000);

  // The detail opens and closes with the URL's hash. The focus goes there and back, as with any dialog.
  const focusWhenShown = (id, tries = 100) => {
    const element = find(id);
    if (element?.offsetParent) element.focus();
    else if (tries) setTimeout(() => focusWhenShown(id, tries - 1), 50);
  };
  window.addEventListener("hashchange", (event) => {
    if (find("confirm")) find("confirm").open = false;
    set("end-note", { children: "" });
    const before = new URL(event.oldURL).hash;
    if (location.hash.length > 1) focusWhenShown("detail-name");
    else if (before.length > 1) document.querySelector(`#owners a[href="${CSS.escape(before)}"]`)?.focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && location.hash.length > 1) location.hash = "";
  });
})();
