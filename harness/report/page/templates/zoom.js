// A figure as large as the window. The drawing itself moves there and back, so its values can be read there too.
function zooming(figure) {
  const svg = figure.querySelector("svg");
  const name = svg.querySelector("title").textContent;
  const whole = svg.getAttribute("viewBox").split(" ").map(Number);
  let [x, y, w, h] = whole;
  const stage = make("div", { className: "stage" });
  const button = (text, act) => {
    const node = make("button", { type: "button", className: "enlarge" }, text);
    node.addEventListener("click", act);
    return node;
  };
  const show = () => {
    x = Math.min(whole[0] + whole[2] - w, Math.max(whole[0], x));
    y = Math.min(whole[1] + whole[3] - h, Math.max(whole[1], y));
    svg.setAttribute("viewBox", `${x} ${y} ${w} ${h}`);
  };
  const zoom = (factor, px = x + w / 2, py = y + h / 2) => {
    const [old, shares] = [w, [(px - x) / w, (py - y) / h]];
    w = Math.min(whole[2], Math.max(whole[2] / 20, w / factor));
    h *= w / old;
    [x, y] = [px - shares[0] * w, py - shares[1] * h];
    show();
  };
  const shift = (dx, dy) => {
    [x, y] = [x + dx, y + dy];
    show();
  };
  const reset = () => {
    [x, y, w, h] = whole;
    show();
  };
  const dialog = make("dialog", { className: "large" });
  dialog.setAttribute("aria-label", name);
  const hint = make("span", {}, "Wheel or + and − zoom, dragging or arrow keys move, 0 shows all, Esc closes.");
  const tools = [button("Close", () => dialog.close()), button("Larger", () => zoom(1.5)), button("Smaller", () => zoom(1 / 1.5)), button("All", reset)];
  dialog.append(make("p", {}, ...tools, hint), stage);
  const home = svg.parentNode;
  const readout = figure.querySelector(".readout");
  const open = () => {
    if (dialog.open) return;
    stage.append(svg);
    if (readout) dialog.append(readout);
    figure.append(dialog);
    dialog.showModal();
  };
  dialog.addEventListener("close", () => {
    reset();
    home.append(svg);
    if (readout) home.after(readout);
    dialog.remove();
    opener.focus();
  });
  dialog.addEventListener("keydown", (event) => {
    const act = {
      "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: reset,
      ArrowLeft: () => shift(-w / 8, 0), ArrowRight: () => shift(w / 8, 0), ArrowUp: () => shift(0, -h / 8), ArrowDown: () => shift(0, h / 8),
    }[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.defaultPrevented) return; // in the figure, arrows read its values
    event.preventDefault();
    act();
  });
  const at = (event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const { x: px, y: py } = at(event);
    zoom(Math.exp(-event.deltaY / 400), px, py);
  });
  let held = null;
  stage.addEventListener("pointerdown", (event) => {
    held = at(event);
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!held || !event.buttons) return;
    const now = at(event);
    shift(held.x - now.x, held.y - now.y);
  });
  stage.addEventListener("pointerup", () => (held = null));
  const opener = button("Enlarge", open);
  opener.setAttribute("aria-label", `Enlarge: ${name}`);
  figure.querySelector("figcaption").before(opener);
  svg.addEventListener("dblclick", open);
  svg.addEventListener("keydown", (event) => event.key === "Enter" && open());
}
