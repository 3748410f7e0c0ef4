// The button "User store" in Dash's dev tools, and what it opens. Dash brings React and calls this a component.
(function () {
    const {createElement: h, useCallback, useEffect, useState} = window.React;
    const POPUP = "user-store";
    const STYLE = `
.user-store-devtool {
    --ink: #1d2430; --soft: #5b6675; --line: #dfe3e8; --paper: #ffffff; --accent: #7f4bc4; --danger: #b3261e;
    width: min(36rem, calc(100vw - 4rem)); max-height: min(26rem, calc(100vh - 8rem)); overflow: auto; padding: 16px;
    border: 1px solid var(--line); border-radius: 8px; background: var(--paper); color: var(--ink);
    box-shadow: 0 4px 16px rgba(0, 0, 0, .15); font: 14px/1.4 Verdana, sans-serif; box-sizing: border-box;
    position: absolute; bottom: calc(100% + 8px); right: 8px; text-align: left;
}
@media (prefers-color-scheme: dark) {
    .user-store-devtool {
        --ink: #e6e9ee; --soft: #a3adba; --line: #3a4352; --paper: #1b212b; --accent: #c3a2f0; --danger: #ff8a80;
        color-scheme: dark;
    }
}
.user-store-devtool header { display: flex; align-items: center; gap: 8px; margin-bottom: 8px; }
.user-store-devtool h2 { flex: 1; margin: 0; font: bold 15px Verdana, sans-serif; color: inherit; }
.user-store-devtool table { width: 100%; border-collapse: collapse; }
.user-store-devtool th { color: var(--soft); font-weight: normal; font-size: 12px; text-align: left; }
.user-store-devtool th, .user-store-devtool td {
    padding: 6px 12px 6px 0; border: 0; border-bottom: 1px solid var(--line); background: none; color: inherit;
}
.user-store-devtool th { color: var(--soft); }
.user-store-devtool td.key { font-family: monospace; overflow-wrap: anywhere; }
.user-store-devtool .bytes { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.user-store-devtool p { margin: 8px 0 0; color: var(--soft); }
.user-store-devtool p.error { color: var(--danger); }
.user-store-devtool .user-store-devtool__action {
    padding: 4px 8px; border: 1px solid var(--line); border-radius: 4px; background: none; color: var(--accent);
    font: inherit; font-size: 13px; line-height: 1.4; cursor: pointer; display: inline-block;
}
.user-store-devtool .user-store-devtool__action:hover, .user-store-devtool .user-store-devtool__action:focus-visible {
    border-color: currentColor;
}
.user-store-devtool .user-store-devtool__action--danger { color: var(--danger); }
`;

    async function ask(body) {
        const config = JSON.parse(document.getElementById("_dash-config").textContent);
        const response = await fetch(config.requests_pathname_prefix + "_user-store", {
            method: "POST",
            credentials: "same-origin",
            headers: {"Content-Type": "application/json"},
            body: JSON.stringify(body),
        });
        const isJson = (response.headers.get("Content-Type") || "").startsWith("application/json");
        const answer = isJson ? await response.json() : {};
        return response.ok ? answer : {error: answer.error || `The server answers ${response.status}.`};
    }

    function bytes(n) {
        const units = ["B", "kB", "MB", "GB"];
        let unit = 0;
        for (; n >= 1000 && unit < units.length - 1; unit++) {
            n /= 1000;
        }
        return `${unit ? n.toFixed(1) : n} ${units[unit]}`;
    }

    function action(label, onClick, kind) {
        const name = "user-store-devtool__action";
        return h("button", {type: "button", className: kind ? `${name} ${name}--${kind}` : name, onClick}, label);
    }

    function Values({values, send}) {
        const rows = values.map((value) =>
            h("tr", {key: value.key},
                h("td", {className: "key"}, value.key),
                h("td", null, value.kind),
                h("td", {className: "bytes"}, bytes(value.nbytes)),
                h("td", null, value.expires_at ? new Date(value.expires_at).toLocaleString() : "with the session"),
                h("td", null, action("Delete", () => send({do: "delete", key: value.key}), "danger"))));
        const head = ["Key", "Kind", "Size", "Expires", ""].map((name) =>
            h("th", {key: name, className: name === "Size" ? "bytes" : undefined}, name));
        return h("table", null, h("thead", null, h("tr", null, head)), h("tbody", null, rows));
    }

    function Panel() {
        const [{values, error}, show] = useState({});
        const send = useCallback((body) => ask(body).catch((reason) => ({error: String(reason)})).then(show), []);
        useEffect(() => { send({}); }, []);
        return h("section", {className: "user-store-devtool", "aria-label": "User store"},
            h("style", null, STYLE),
            h("header", null,
                h("h2", null, "This visitor's store"),
                action("Refresh", () => send({})),
                values && values.length > 0 && action("Clear", () => send({do: "clear"}), "danger")),
            values && values.length > 0 && h(Values, {values, send}),
            values && h("p", null, values.length
                ? `${values.length} key${values.length === 1 ? "" : "s"}, `
                    + bytes(values.reduce((sum, value) => sum + value.nbytes, 0))
                : "Nothing is stored."),
            error && h("p", {className: "error", role: "alert"}, error));
    }

    // Dash 3.2 lets a button open what it likes; later versions open one popup at a time.
    function useOpen() {
        const own = useState(null);
        const api = (window.dash_component_api || {}).devtool;
        const {popup, setPopup} = api ? api.useDevtool() : {popup: own[0], setPopup: own[1]};
        return [popup === POPUP, (isOpen) => setPopup(isOpen ? POPUP : null)];
    }

    function UserStoreDevtool() {
        const [isOpen, open] = useOpen();
        const className = "dash-debug-menu__button" + (isOpen ? " dash-debug-menu__button--selected" : "");
        return h(window.React.Fragment, null,
            isOpen && h(Panel),
            h("button", {type: "button", className, "aria-expanded": isOpen, onClick: () => open(!isOpen)}, "User store"));
    }

    window.flask_dash_store = Object.assign(window.flask_dash_store || {}, {UserStoreDevtool});
})();
