"use strict";
// Shows the values under the pointer. Without it the page lacks nothing else.
for (const chart of document.querySelectorAll(".chart")) {
  const data = JSON.parse(chart.querySelector("script").textContent);
  const frame = chart.querySelector(".frame");
  const add = (parent, name, text) => {
    const element = parent.appendChild(document.createElement(name));
    if (text !== undefined) element.textContent = text;
    return element;
  };
  let cursor, tip;
  const hide = () => { cursor?.remove(); tip?.remove(); cursor = tip = undefined; };
  const nearest = (steps, step) => {
    let low = 0, high = steps.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (steps[middle] < step) low = middle; else high = middle;
    }
    return step - steps[low] <= steps[high] - step ? low : high;
  };
  const show = (event) => {
    hide();
    const box = frame.getBoundingClientRect();
    const [first, last] = data.x;
    const wanted = first + (event.clientX - box.left) / box.width * (last - first);
    const found = data.series.map((series) => [series, nearest(series.x, wanted)]);
    const step = found.map(([series, i]) => series.x[i]).reduce((a, b) => Math.abs(a - wanted) <= Math.abs(b - wanted) ? a : b);
    const left = (step - first) / (last - first);
    cursor = add(frame, "div");
    cursor.className = "cursor";
    cursor.style.left = `${100 * left}%`;
    tip = add(frame, "div");
    tip.className = "tip";
    add(tip, "strong", `step ${step}`);
    for (const [series, i] of found) {
      const row = add(add(tip, "div"), "span", `${series.name} ${series.y[i]}`);
      row.style.setProperty("--colour", series.colour);
      if (series.x[i] !== step) row.textContent += ` (step ${series.x[i]})`;
      else if (series.at[i] >= 0 && series.at[i] <= 100) {
        const dot = add(cursor, "b");
        dot.style.top = `${series.at[i]}%`;
        dot.style.setProperty("--colour", series.colour);
      }
    }
    const room = box.width - tip.offsetWidth;
    tip.style.left = `${Math.max(0, left < 0.5 ? Math.min(left * box.width + 12, room) : left * box.width - tip.offsetWidth - 12)}px`;
  };
  frame.addEventListener("pointermove", show);
  frame.addEventListener("pointerdown", show);
  frame.addEventListener("pointerleave", hide);
}
