// A click on a title sorts by its column: numbers downwards, names upwards, and back.
for (const head of document.querySelectorAll(".sortable th")) {
  head.tabIndex = 0;
  head.onkeydown = event => { if (event.key === "Enter") head.click(); };
  head.onclick = () => {
    const at = head.cellIndex, body = head.closest("table").tBodies[0];
    const order = head.dataset.order === "down" ? "up" : "down";
    const key = row => row.cells[at].textContent.replace(/,/g, "");
    const isNumber = text => text !== "" && !isNaN(text);
    const rows = [...body.rows].sort((a, b) => {
      const x = key(a), y = key(b);
      if (isNumber(x) !== isNumber(y)) return isNumber(x) ? -1 : 1;
      const less = isNumber(x) ? y - x : x.localeCompare(y);
      return order === "down" ? less : -less;
    });
    head.dataset.order = order;
    body.append(...rows);
  };
}
