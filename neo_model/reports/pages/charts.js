"use strict";
// Elements, charts and tables from data. Text only ever enters as text, never as markup.
const COLORS = {blue: "#0072B2", vermilion: "#D55E00", green: "#009E73", sky: "#56B4E9", orange: "#E69F00",
  purple: "#CC79A7", yellow: "#F0E442", grey: "#767676", black: "#000000"};
const el = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
const shape = (name, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value);
  }
  node.append(...children.filter(child => child !== null && child !== undefined));
  return node;
}
const byId = id => document.getElementById(id);
const known = value => value !== null && value !== undefined;
const three = value => known(value) ? value.toFixed(3) : "–";
const signed = value => known(value) ? (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(3) : "–";
const count = value => known(value) ? value.toLocaleString("en") : "–";
const several = (value, one, many) => `${count(value)} ${value === 1 ? one : many}`;
const direction = value => !known(value) || Math.abs(value) < 0.0005 ? "" : value > 0 ? "up" : "down";

const tip = document.body.appendChild(el("div", {class: "tip", role: "status"}));
function showTip(event, text) {
  tip.textContent = text;
  tip.style.display = text ? "block" : "none";
  tip.style.left = Math.min(event.clientX + 14, innerWidth - 350) + "px";
  tip.style.top = event.clientY + 16 + "px";
}
const hideTip = () => { tip.style.display = "none"; };
const tipped = text => ({onmousemove: event => showTip(event, typeof text === "function" ? text() : text), onmouseleave: hideTip});

// A frame with axes. x and y: {name, low, high, ticks, format}; returns the picture and both scales.
function frame(x, y, {width = 560, height = 330, left = 56, below = 44} = {}) {
  const right = width - 14, top = 20, bottom = height - below;
  const toX = value => left + (value - x.low) / (x.high - x.low) * (right - left);
  const toY = value => bottom - (value - y.low) / (y.high - y.low) * (bottom - top);
  const picture = shape("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${y.name} over ${x.name}`});
  for (const tick of y.ticks) picture.append(
    shape("line", {class: "grid", x1: left, x2: right, y1: toY(tick), y2: toY(tick)}),
    shape("text", {x: left - 8, y: toY(tick) + 4, "text-anchor": "end"}, (y.format || String)(tick)));
  for (const tick of x.ticks || []) picture.append(
    shape("line", {class: "grid", x1: toX(tick), x2: toX(tick), y1: top, y2: bottom}),
    shape("text", {x: toX(tick), y: bottom + 17, "text-anchor": "middle"}, (x.format || String)(tick)));
  picture.append(shape("line", {class: "axis", x1: left, x2: right, y1: bottom, y2: bottom}),
    shape("text", {class: "name", x: (left + right) / 2, y: height - 6, "text-anchor": "middle"}, x.name),
    shape("text", {class: "name", transform: `translate(13 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle"}, y.name));
  return {picture, toX, toY, left, right, top, bottom};
}
const TENTHS = [0, 0.2, 0.4, 0.6, 0.8, 1];
const unit = name => ({name, low: 0, high: 1, ticks: TENTHS, format: tick => tick.toFixed(1)});
function path(points, toX, toY, attributes) {
  const steps = points.filter(([, y]) => known(y)).map(([x, y]) => `${toX(x).toFixed(1)} ${toY(y).toFixed(1)}`);
  return shape("path", {d: steps.length ? "M" + steps.join("L") : "M0 0", fill: "none", ...attributes});
}
const legend = entries => el("div", {class: "legend"}, ...entries.map(([name, color]) =>
  el("span", {}, el("i", {style: `background:${color}`}), name)));
// The highest end of an axis and its ticks for values from 0.
function niceAxis(name, highest, format) {
  const raw = Math.max(highest, 1e-6) / 4, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map(factor => factor * power).find(value => value >= raw);
  const top = Math.ceil(highest / step - 1e-9) * step || step;
  const ticks = [];
  for (let i = 0; i * step <= top * 1.0001; i++) ticks.push(i * step);
  return {name, low: 0, high: top, ticks, format: format || (tick => String(+tick.toPrecision(6)))};
}
// Bars side by side. groups: [{label, note, bars: [{value, color, tip}]}].
function bars(groups, y, xName) {
  const below = groups.some(group => group.note) ? 58 : 44;
  const {picture, toY, left, right, bottom} = frame({name: xName, low: 0, high: 1}, y, {below});
  const step = (right - left) / groups.length;
  groups.forEach((group, place) => {
    const width = step * 0.66 / group.bars.length, start = left + place * step + step * 0.17;
    group.bars.forEach((bar, number) => {
      if (!known(bar.value)) return;
      picture.append(shape("rect", {x: start + number * width, width: width - 1, y: toY(bar.value),
        height: Math.max(0, bottom - toY(bar.value)), fill: bar.color, class: "column", ...tipped(bar.tip)}));
      if (group.bars.length === 1 && step > 30) picture.append(shape("text",
        {x: start + width / 2, y: toY(bar.value) - 5, "text-anchor": "middle"}, bar.text || ""));
    });
    picture.append(shape("text", {x: left + (place + 0.5) * step, y: bottom + 17, "text-anchor": "middle"}, group.label));
    if (group.note) picture.append(shape("text", {class: "name", x: left + (place + 0.5) * step, y: bottom + 32, "text-anchor": "middle"}, group.note));
  });
  return picture;
}
// A table that sorts by a click on a column's head. columns: [{key, name, text, long, format, bar, sign}].
function sortedTable(columns, rows, {by, falling = false, onrow} = {}) {
  let key = by, down = falling;
  const body = el("tbody"), heads = new Map();
  const compare = (one, two) => {
    const a = one[key], b = two[key];
    if (!known(a) || !known(b)) return known(b) - known(a);  // what is not known comes last either way
    const order = typeof a === "string" ? a.localeCompare(b, "en", {numeric: true}) : a - b;
    return down ? -order : order;
  };
  const cell = (column, row) => {
    const value = row[column.key], shown = column.text ? value : (column.format || count)(value);
    const classes = [column.text ? "text" : "", column.long ? "long" : "", column.sign ? direction(value) : ""];
    const bar = column.bar ? el("span", {class: "barbox"}, el("span", {class: "bar", style: `width:${(value || 0) * 56}px`})) : null;
    return el("td", {class: classes.join(" ").trim() || null}, bar, shown);
  };
  const draw = () => {
    for (const [name, head] of heads) head.setAttribute("aria-sort", name === key ? (down ? "descending" : "ascending") : "none");
    for (const [name, head] of heads) head.querySelector("span").textContent = name === key ? (down ? " ▼" : " ▲") : "";
    body.replaceChildren(...[...rows].sort(compare).map(row =>
      el("tr", onrow ? {onclick: () => onrow(row), style: "cursor:pointer"} : {}, ...columns.map(column => cell(column, row)))));
  };
  const header = el("tr", {}, ...columns.map(column => {
    const choose = () => {
      down = key === column.key ? !down : !column.text;
      key = column.key;
      draw();
    };
    const head = el("th", {class: column.text ? "text" : null, title: column.meaning},
      el("button", {onclick: choose}, column.name, el("span")));
    heads.set(column.key, head);
    return head;
  }));
  draw();
  return el("table", {}, el("thead", {}, header), body);
}
