for (const table of document.querySelectorAll("table.sortable"))
  table.tHead.addEventListener("click", (event) => {
    const head = event.target.closest("th");
    if (!head) return;
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => row.cells[head.cellIndex].dataset.value ?? row.cells[head.cellIndex].textContent.trim();
    const numeric = head.classList.contains("number");
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (!numeric) return (up ? 1 : -1) * x.localeCompare(y);
      const [p, q] = [parseFloat(x), parseFloat(y)];
      if (isNaN(p) || isNaN(q)) return isNaN(p) - isNaN(q); // what has no number stays at the end
      return up ? p - q : q - p;
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
  });
