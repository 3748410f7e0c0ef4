// Asks the server each second whether what the page watches has been changed elsewhere. See changed.py.
(function () {
  "use strict";
  const TYPE = "user-store-changed";
  const ROUTE = "_user-store/changed";
  const INTERVAL_MS = 1000;
  const LONGEST_MS = 30000;

  let timer = null;
  let isAsking = false;
  let errors = 0;
  let known = []; // what there is to watch, as the server has said

  // The version that the page has; undefined where it does not have the store.
  function held(keys) {
    const api = window.dash_component_api;
    const component = api && api.getLayout({ type: TYPE, keys });
    if (!component || component.type !== "Store") return undefined;
    return component.props.data === undefined ? null : component.props.data;
  }

  // Returns whether to ask again.
  async function ask() {
    const config = JSON.parse(document.getElementById("_dash-config").textContent);
    const url = config.requests_pathname_prefix + ROUTE;
    // A callback's response may bring a version that is newer than the one that is asked for now.
    const before = new Map(known.map((keys) => [keys, held(keys)]));
    const response = await fetch(url, { credentials: "same-origin", cache: "no-store" });
    if (response.status >= 500) throw new Error(`${url} answered ${response.status}`);
    if (!(response.headers.get("Content-Type") || "").startsWith("application/json")) {
      console.error(`${url} is not there: import flask_dash_store.Changed before Dash() is called.`);
      return false;
    }
    const { versions } = await response.json();
    if (versions === undefined) return false; // The app has no store.
    for (const [keys, version] of Object.entries(versions || {})) {
      const present = held(keys);
      if (present !== undefined && present !== version && (!before.has(keys) || present === before.get(keys))) {
        window.dash_clientside.set_props({ type: TYPE, keys }, { data: version });
      }
    }
    known = Object.keys(versions || {});
    return true;
  }

  async function run() {
    timer = null;
    if (isAsking || document.visibilityState !== "visible") return;
    isAsking = true;
    let goesOn = true;
    try {
      goesOn = await ask();
      errors = 0;
    } catch (error) {
      errors += 1;
    }
    isAsking = false;
    if (goesOn) timer = setTimeout(run, Math.min(INTERVAL_MS * 2 ** errors, LONGEST_MS));
    else document.removeEventListener("visibilitychange", look);
  }

  // A page that is hidden asks nothing, and one that is shown again asks at once.
  function look() {
    clearTimeout(timer);
    run();
  }

  document.addEventListener("visibilitychange", look);
  timer = setTimeout(run, INTERVAL_MS);
})();
