"use strict";
// The table of images: sorted by its heads, filtered by status, class and text. The address keeps both, so that a view
// can be linked: #status=open&class=3&find=12&by=image&sort=distance&order=down
(() => {
  const table = document.getElementById("table");
  if (!table) return;
  const form = document.getElementById("filters");
  const count = document.getElementById("count");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const names = heads.map((head) => head.textContent);
  const rows = [...body.rows].map((element, place) => ({
    element,
    place,
    cells: [...element.cells].map((cell) => cell.textContent),
    text: element.textContent.toLowerCase(),
  }));
  const empty = { status: "", class: "", find: "", by: "", sort: "", order: "" };
  let view = { ...empty };

  const number = (text) => (text === "" ? NaN : text === "∞" ? Infinity : Number(text.replace("−", "-")));

  const compare = (column, numeric, sign) => (a, b) => {
    const [s, t] = [a.cells[column], b.cells[column]];
    if (!numeric) return sign * s.localeCompare(t, undefined, { numeric: true }) || a.place - b.place;
    const [x, y] = [number(s), number(t)];
    // cells without a number come last, whichever way
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a.place - b.place;
    return (x === y ? 0 : sign * (x < y ? -1 : 1)) || a.place - b.place;
  };

  const matches = (row) => {
    if (view.status && row.element.dataset.status !== view.status) return false;
    if (view.class && row.element.dataset.class !== view.class) return false;
    if (!view.find) return true;
    const column = names.indexOf(view.by);
    return column < 0 ? row.text.includes(view.find.toLowerCase()) : row.cells[column] === view.find;
  };

  let sorted = "";
  const sort = () => {
    const key = `${view.sort} ${view.order}`;
    if (key === sorted) return;
    sorted = key;
    const column = names.indexOf(view.sort);
    const sign = view.order === "down" ? -1 : 1;
    const order = [...rows];
    if (column >= 0) order.sort(compare(column, heads[column].classList.contains("number"), sign));
    body.append(...order.map((row) => row.element));
    heads.forEach((head, at) => {
      head.setAttribute("aria-sort", at !== column ? "none" : sign < 0 ? "descending" : "ascending");
    });
  };

  const show = () => {
    let shown = 0;
    for (const row of rows) {
      const hide = !matches(row);
      shown += hide ? 0 : 1;
      if (row.element.hidden !== hide) row.element.hidden = hide;
    }
    sort();
    const all = rows.length.toLocaleString("en");
    count.textContent = shown === rows.length ? `${all} images` : `${shown.toLocaleString("en")} of ${all} images`;
  };

  const read = () => {
    const given = new URLSearchParams(location.hash.slice(1));
    view = { ...empty };
    for (const key of Object.keys(empty)) view[key] = given.get(key) ?? "";
    for (const key of ["status", "class", "find"]) form.elements[key].value = view[key];
    show();
    return Object.values(view).some(Boolean);
  };

  const write = () => {
    const given = Object.entries(view).filter(([, value]) => value);
    history.replaceState(null, "", given.length ? `#${new URLSearchParams(given)}` : "#images");
    show();
  };

  heads.forEach((head, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = names[at];
    button.addEventListener("click", () => {
      const again = view.sort === names[at];
      // up, down, and as in the data
      if (again && view.order === "down") view.sort = view.order = "";
      else Object.assign(view, { sort: names[at], order: again ? "down" : "up" });
      write();
    });
    head.replaceChildren(button);
  });
  form.addEventListener("input", (event) => {
    view[event.target.name] = event.target.value;
    if (event.target.name === "find") view.by = "";
    write();
  });
  form.addEventListener("reset", () => {
    Object.assign(view, { ...empty, sort: view.sort, order: view.order });
    write();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  const follow = () => read() && document.getElementById("images").scrollIntoView();
  addEventListener("hashchange", follow);
  form.hidden = false;
  follow();
})();
