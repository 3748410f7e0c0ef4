// Gives this browser tab a name, and sends it with what Dash asks of the server. See tab_store.py.
(function () {
  "use strict";
  const HEADER = "X-User-Store-Tab";
  const IN_PAYLOAD = "userStoreTab";
  const WORKER = "dash-ws-worker";
  const KEY = "user-store-tab";
  const PATHS = ["_dash-layout", "_dash-update-component"];
  // On a reload, the page before may hold its lock for an instant longer.
  const TIMEOUT_MS = 500;

  let memory = null; // where the browser keeps no sessionStorage for this page
  const stored = () => {
    try {
      return window.sessionStorage.getItem(KEY);
    } catch (error) {
      return memory;
    }
  };
  const store = (name) => {
    memory = name;
    try {
      window.sessionStorage.setItem(KEY, name);
    } catch (error) {}
    return name;
  };
  const newName = () =>
    Array.from(window.crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

  // A tab that is duplicated has a copy of the other one's sessionStorage. So each holds a lock on its name for as long
  // as it is open, and one that does not get it takes another name.
  const lock = (name) =>
    new Promise((resolve, reject) => {
      const abort = new AbortController();
      const timer = setTimeout(() => abort.abort(), TIMEOUT_MS);
      navigator.locks
        .request(`${KEY}-${name}`, { signal: abort.signal }, () => {
          clearTimeout(timer);
          resolve(name);
          return new Promise((release) => window.addEventListener("pagehide", release, { once: true }));
        })
        .catch(reject);
    });
  const take = (name) => (navigator.locks ? lock(name) : Promise.resolve(name));
  const named = async () => {
    const kept = stored();
    if (kept) {
      try {
        return await take(kept);
      } catch (error) {}
    }
    return take(store(newName()));
  };
  let tab = named();
  // The browser may show a page again as it was, with the lock given up (the back/forward cache).
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) tab = named();
  });

  const isDashs = (resource) => {
    const url = new URL(resource instanceof Request ? resource.url : resource, window.location.href);
    return url.origin === window.location.origin && PATHS.some((path) => url.pathname.endsWith(`/${path}`));
  };
  const fetchBefore = window.fetch;
  window.fetch = async function (resource, options) {
    if (!isDashs(resource)) return fetchBefore.call(this, resource, options);
    const request = new Request(resource, options);
    request.headers.set(HEADER, await tab);
    return fetchBefore.call(this, request);
  };

  // Dash's websocket belongs to a worker that all tabs of the browser share, to which each tab posts its callbacks.
  const Worker = window.SharedWorker;
  if (Worker) {
    window.SharedWorker = class SharedWorker extends Worker {
      constructor(url, options) {
        super(url, options);
        if ((options && options.name) !== WORKER) return;
        const post = this.port.postMessage.bind(this.port);
        this.port.postMessage = async (message, ...others) => {
          // Whatever else it is goes at once: the last message of a page is followed by the end of its port.
          if (message.type === "callback_request") {
            message = { ...message, payload: { ...message.payload, [IN_PAYLOAD]: await tab } };
          }
          post(message, ...others);
        };
      }
    };
  }
})();
