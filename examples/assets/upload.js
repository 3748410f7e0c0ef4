// Sends a file to the server and shows how far it is, which dcc.Upload does not. Used by upload_csv.py alone.
(function () {
  "use strict";

  function show(text, progress, className = "message") {
    dash_clientside.set_props("upload-status", { children: text, className });
    // A bar without a value moves to and fro.
    dash_clientside.set_props("upload-progress", { hidden: progress === undefined, value: progress });
  }

  function send(file) {
    const form = new FormData();
    form.append("file", file);
    const request = new XMLHttpRequest();
    request.upload.onprogress = ({ loaded, total }) =>
      show(`Uploading ${file.name}: ${Math.round((100 * loaded) / total)} %`, String(loaded / total));
    request.upload.onload = () => show(`Reading ${file.name} …`, null);
    request.onload = () => {
      const text = request.status < 500 ? request.responseText : "The server failed.";
      show(text, undefined, request.status < 400 ? "message" : "message error");
    };
    request.onerror = () =>
      show("The upload broke off. Is the file too large, or the server gone?", undefined, "message error");
    request.open("POST", document.getElementById("drop").dataset.url);
    request.send(form);
  }

  function choose() {
    const input = document.createElement("input");
    input.type = "file";
    input.accept = ".csv,text/csv";
    input.onchange = () => send(input.files[0]);
    input.click();
  }

  // Sales of two years, 20 MB of them.
  function sample() {
    const any = (list) => list[Math.floor(Math.random() ** 1.4 * list.length)];
    const regions = ["North", "West", "South", "East"];
    const prices = { "Espresso machine": 249, "Coffee grinder": 89, "Milk frother": 39, "Tea kettle": 59, "Filter set": 12 };
    const lines = ["month,region,product,customer,units,revenue"];
    for (let row = 0; row < 400000; row += 1) {
      const month = Math.floor(24 * Math.random() ** 0.7);
      const product = any(Object.keys(prices));
      const units = 1 + Math.floor(9 * Math.random() ** 3);
      const paid = prices[product] * units * (0.8 + 0.2 * Math.random());
      const date = `${2024 + Math.floor(month / 12)}-${String((month % 12) + 1).padStart(2, "0")}`;
      const customer = `Customer ${10000 + Math.floor(90000 * Math.random())}`;
      lines.push(`${date},${any(regions)},${product},${customer},${units},${paid.toFixed(2)}`);
    }
    return new File([lines.join("\n")], "sales.csv", { type: "text/csv" });
  }

  document.addEventListener("click", ({ target }) => {
    if (target.id === "choose") choose();
    if (target.id === "sample") {
      show("Making a sample …", null);
      setTimeout(() => send(sample()), 50); // after the line above has been drawn
    }
  });

  for (const type of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(type, (event) => {
      const area = event.target.closest && event.target.closest("#drop");
      if (!area) return;
      event.preventDefault();
      area.classList.toggle("over", type === "dragover");
      if (type === "drop" && event.dataTransfer.files.length) send(event.dataTransfer.files[0]);
    });
  }
})();
