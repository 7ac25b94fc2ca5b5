const content = JSON.parse(byId("content").textContent);
const {other, threshold, class_names: classNames} = content;
const KINDS = content.errors.map(entry => entry.kind);
const ERROR_COLORS = {classification: COLORS.orange, localisation: COLORS.sky, both: COLORS.purple,
  duplicate: COLORS.blue, background: COLORS.vermilion, missed: COLORS.yellow};
const colorOf = {own: COLORS.blue, other: COLORS.orange};

for (const node of document.querySelectorAll(".threshold")) node.textContent = threshold.toFixed(2);
byId("findings").append(...content.findings.map(sentence => el("li", {}, sentence)));
byId("figures").append(...content.summary.map(({key, value, meaning, other: before}) =>
  el("div", {class: "figure", title: meaning}, el("span", {}, key), el("b", {}, three(value)),
    other && known(value) && known(before)
      ? el("span", {class: direction(value - before)}, signed(value - before)) : null)));

// Classes
const classColumns = [
  {key: "class", name: "class", text: true}, {key: "images", name: "images"}, {key: "objects", name: "objects"},
  {key: "AP", name: "AP", format: three, bar: true, meaning: "IoU 0.50 to 0.95"},
  ...(other ? [{key: "other AP", name: "AP before", format: three, meaning: other},
    {key: "difference", name: "difference", format: signed, sign: true, meaning: `AP less that of ${other}`}] : []),
  {key: "AP50", name: "AP50", format: three}, {key: "AP75", name: "AP75", format: three},
  {key: "precision", name: "precision", format: three}, {key: "recall", name: "recall", format: three},
  ...content.errors.map(entry => ({key: entry.kind, name: entry.kind, meaning: entry.meaning}))];
function drawClasses() {
  const wanted = byId("class-filter").value.toLowerCase();
  const rows = content.classes.filter(row => row.class.toLowerCase().includes(wanted));
  byId("class-table").replaceChildren(sortedTable(classColumns, rows, {
    by: other ? "difference" : "AP", falling: false, onrow: row => chooseClass(classNames.indexOf(row.class))}));
}
byId("class-filter").addEventListener("input", drawClasses);
drawClasses();

// Errors
const costs = content.errors.flatMap(entry => [entry.cost, entry.other || 0]);
byId("error-chart").append(bars(content.errors.map(entry => ({label: entry.kind, bars: [
  {value: entry.cost, color: ERROR_COLORS[entry.kind], text: three(entry.cost), tip: `${entry.kind}: ${three(entry.cost)}`},
  ...(other ? [{value: entry.other, color: "#c3cad2", tip: `${other}: ${three(entry.other)}`}] : [])]})),
niceAxis("gain in AP50", Math.max(...costs)), "kind of error"));
if (other) byId("error-chart").prepend(legend([["this evaluation (in colour)", COLORS.blue], [other, "#c3cad2"]]));
byId("error-table").append(sortedTable([
  {key: "kind", name: "kind", text: true}, {key: "cost", name: "gain in AP50", format: three},
  ...(other ? [{key: "other", name: "before", format: three, meaning: other}] : []),
  {key: "count", name: "number"}, {key: "meaning", name: "meaning", text: true, long: true}], content.errors, {by: "cost", falling: true}));

// Precision and recall
const RECALL = Array.from({length: 101}, (_, i) => i / 100);
const along = values => values.map((value, i) => [RECALL[i], value]);
{
  const lines = [["IoU 0.50", COLORS.blue], ["IoU 0.75", COLORS.vermilion], ["mean of IoU 0.50 to 0.95", COLORS.green]];
  const {picture, toX, toY} = frame(unit("recall"), unit("precision"));
  for (const [name, color] of lines) picture.append(path(along(content.curves[name]), toX, toY, {stroke: color, "stroke-width": 2.2}));
  byId("curves-overall").append(legend(lines), picture);
}
const select = byId("curve-class");
select.append(el("option", {value: -1}, "none picked out"), ...classNames.map((name, k) => el("option", {value: k}, name)));
select.addEventListener("change", () => drawCurves(+select.value));
function drawCurves(chosen) {
  const {picture, toX, toY} = frame(unit("recall"), unit("precision"));
  const line = (k, attributes) => path(along(content.curves.classes[k]), toX, toY,
    {...attributes, ...tipped(`${classNames[k]}, AP50 ${three(content.classes[k].AP50)}`), onclick: () => chooseCurve(k)});
  classNames.forEach((name, k) => k !== chosen && picture.append(line(k, {stroke: "#8a949f", "stroke-opacity": 0.5, "stroke-width": 1.4})));
  picture.append(path(along(content.curves["IoU 0.50"]), toX, toY, {stroke: COLORS.black, "stroke-width": 2, "stroke-dasharray": "5 4"}));
  if (chosen >= 0) picture.append(line(chosen, {stroke: COLORS.blue, "stroke-width": 3}));
  const entries = [["all classes (dashed)", COLORS.black], ["other classes: point at one", "#b5bcc4"]];
  if (chosen >= 0) entries.unshift([`${classNames[chosen]}, AP50 ${three(content.classes[chosen].AP50)}`, COLORS.blue]);
  byId("curves-classes").replaceChildren(legend(entries), picture);
}
function chooseCurve(k) {
  select.value = k;
  drawCurves(k);
}
chooseCurve(-1);

// Confusion
{
  const table = content.confusion, size = table.length;
  const pitch = Math.max(10, Math.min(54, Math.floor(900 / size)));
  const font = pitch >= 26 ? 13 : Math.max(8, pitch - 2);
  const canvas = el("canvas"), pen = canvas.getContext("2d");
  const rowNames = [...classNames, "(nothing there)"], columnNames = [...classNames, "(not found)"];
  pen.font = `${font}px system-ui, sans-serif`;
  const margin = Math.ceil(Math.max(...rowNames.concat(columnNames).map(name => pen.measureText(name.slice(0, 28)).width))) + 12;
  const side = margin + pitch * size + 2, sharpness = devicePixelRatio || 1;
  canvas.width = canvas.height = side * sharpness;
  canvas.style.width = canvas.style.height = side + "px";
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "confusion matrix; the table below lists its greatest entries");
  pen.scale(sharpness, sharpness);
  pen.font = `${font}px system-ui, sans-serif`;
  pen.textBaseline = "middle";
  const mix = (part, rgb) => `rgb(${rgb.map(c => Math.round(255 + (c - 255) * part)).join(" ")})`;
  table.forEach((row, i) => {
    const sum = row.reduce((a, b) => a + b, 0);
    row.forEach((value, j) => {
      const part = sum ? value / sum : 0, isOutside = i === size - 1 || j === size - 1;
      pen.fillStyle = value ? mix(0.06 + 0.94 * Math.sqrt(part), isOutside ? [213, 94, 0] : [0, 114, 178]) : "#f7f8fa";
      pen.fillRect(margin + j * pitch, margin + i * pitch, pitch - 1, pitch - 1);
      if (pitch >= 26 && value) {
        pen.fillStyle = part > 0.3 ? "#fff" : "#1c2430";
        pen.textAlign = "center";
        pen.fillText(value, margin + (j + 0.5) * pitch, margin + (i + 0.5) * pitch, pitch - 3);
      }
    });
    pen.fillStyle = "#1c2430";
    pen.textAlign = "right";
    pen.fillText(rowNames[i].slice(0, 28), margin - 6, margin + (i + 0.5) * pitch);
    pen.save();
    pen.translate(margin + (i + 0.5) * pitch, margin - 6);
    pen.rotate(-Math.PI / 2);
    pen.textAlign = "left";
    pen.fillText(columnNames[i].slice(0, 28), 0, 0);
    pen.restore();
  });
  canvas.addEventListener("mousemove", event => {
    const box = canvas.getBoundingClientRect();
    const i = Math.floor((event.clientY - box.top - margin) / pitch), j = Math.floor((event.clientX - box.left - margin) / pitch);
    if (i < 0 || j < 0 || i >= size || j >= size) return hideTip();
    const sum = table[i].reduce((a, b) => a + b, 0) || 1;
    showTip(event, `${rowNames[i]} → ${columnNames[j]}: ${count(table[i][j])} (${(100 * table[i][j] / sum).toFixed(1)}% of the row)`);
  });
  canvas.addEventListener("mouseleave", hideTip);
  byId("confusion-matrix").append(canvas);
  byId("confusion-table").append(content.confusions.length
    ? sortedTable([{key: "object", name: "object", text: true}, {key: "taken for", name: "taken for", text: true},
      {key: "times", name: "times"}, {key: "of", name: "of objects"}], content.confusions, {by: "times", falling: true})
    : el("p", {class: "quiet"}, "No object was taken for one of another class."));
}

// Size and place
function binned(rows, xName) {
  const labelled = rows.map(row => ({label: row.label, note: `n = ${count(row.objects)}`, bars: [
    {value: row.AP, color: colorOf.own, text: three(row.AP),
      tip: `AP ${three(row.AP)}, AP50 ${three(row.AP50)}, AR ${three(row.AR)}, ${count(row.objects)} objects`},
    ...(other ? [{value: row.other, color: colorOf.other, tip: `${other}: AP ${three(row.other)}`}] : [])]}));
  const picture = bars(labelled, niceAxis("AP", Math.max(0.05, ...rows.flatMap(row => [row.AP || 0, row.other || 0]))), xName);
  return [...(other ? [legend([["this evaluation", colorOf.own], [other, colorOf.other]])] : []), picture];
}
byId("size-chart").append(...binned(content.sizes, "pixels of the image file (n: objects)"));
byId("distance-chart").append(...binned(content.distances, "0 is the centre, 1 a corner (n: objects)"));

// Scores
{
  const {picture, toX, toY, bottom} = frame(unit("score of a detection"), unit("part that is right (IoU 0.5)"));
  const highest = Math.max(1, ...content.scores.bins.map(bin => bin.count));
  for (const bin of content.scores.bins) {
    if (!bin.count) continue;
    const share = 0.25 * Math.log10(bin.count + 1) / Math.log10(highest + 1);
    const text = `scores ${bin.low.toFixed(1)} to ${(bin.low + 0.1).toFixed(1)}: ${count(bin.count)} detections, ${(100 * bin.right).toFixed(1)}% right`;
    picture.append(shape("rect", {x: toX(bin.low) + 2, width: toX(0.1) - toX(0) - 4, y: toY(share), height: bottom - toY(share),
      fill: "#d5dbe1", ...tipped(text)}));
  }
  picture.append(path([[0, 0], [1, 1]], toX, toY, {stroke: COLORS.grey, "stroke-dasharray": "5 4", "stroke-width": 1.5}));
  const seen = content.scores.bins.filter(bin => bin.count);
  picture.append(path(seen.map(bin => [bin.score, bin.right]), toX, toY, {stroke: COLORS.blue, "stroke-width": 2}));
  for (const bin of seen) picture.append(shape("circle", {cx: toX(bin.score), cy: toY(bin.right), r: 4.5, fill: COLORS.blue,
    ...tipped(`mean score ${three(bin.score)}, ${(100 * bin.right).toFixed(1)}% right`)}));
  byId("calibration-chart").append(
    legend([["detections in tenths of the score", COLORS.blue], ["as it should be (dashed)", COLORS.grey],
      ["number of detections (logarithmic)", "#d5dbe1"]]), picture,
    el("p", {class: "quiet"}, `Calibration error ${three(content.scores.calibration_error)}: how far score and truth lie apart, over all detections.`));
}
{
  const lines = [["precision", COLORS.vermilion], ["recall", COLORS.green], ["f1", COLORS.blue]];
  const {picture, toX, toY, top, bottom} = frame(unit("score threshold (conf_threshold)"), unit("at IoU 0.5"));
  for (const [key, color] of lines) picture.append(path(along(content.scores[key]), toX, toY, {stroke: color, "stroke-width": 2.2}));
  picture.append(shape("line", {x1: toX(threshold), x2: toX(threshold), y1: top, y2: bottom, stroke: COLORS.grey, "stroke-dasharray": "5 4"}));
  const at = Math.round(threshold * 100), of = key => three(content.scores[key][at]);
  byId("threshold-chart").append(legend([["precision", COLORS.vermilion], ["recall", COLORS.green], ["F1", COLORS.blue]]), picture,
    el("p", {class: "quiet"}, `F1 is highest at ${threshold.toFixed(2)}: precision ${of("precision")}, recall ${of("recall")}, F1 ${of("f1")}.`));
}
