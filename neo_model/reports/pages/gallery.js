// Images
const RIGHT_COLOR = COLORS.green;
const filters = {class: -1, kind: "any", order: "worst", threshold, otherThreshold: content.other_threshold, labels: true};
const MOST_LABELS = 14;
let shown = 0;
const PAGE = 8;
const orders = {
  worst: ["worst F1 first", (a, b) => a.f1 - b.f1 || b.wrong - a.wrong],
  best: ["best F1 first", (a, b) => b.f1 - a.f1 || b.objects - a.objects],
  errors: ["most wrong detections first", (a, b) => b.wrong - a.wrong],
  ...(other ? {lost: ["most lost first", (a, b) => (a.f1 - a.other_f1) - (b.f1 - b.other_f1)],
    won: ["most won first", (a, b) => (b.f1 - b.other_f1) - (a.f1 - a.other_f1)]} : {})};
if (other) filters.order = "lost";
// What is shown of an image at a threshold: detections, and objects that nothing is about.
function seen(image, found, lowest = filters.threshold) {
  const visible = found.filter(box => box[5] >= lowest);
  const reached = new Set(visible.map(box => box[7]));
  return {visible, missed: image.truth.map((box, place) => !box[5] && !reached.has(place))};
}
function kindOf(box) { return box[6] === 0 ? "right" : box[6] === 7 ? "on a crowd" : KINDS[box[6] - 1]; }
function matches(image) {
  const {visible, missed} = seen(image, image.found), ofClass = k => filters.class < 0 || k === filters.class;
  if (filters.kind === "any" && filters.class < 0) return true;
  const detections = visible.some(box => ofClass(box[4]) && (filters.kind === "any" || kindOf(box) === filters.kind));
  const objects = image.truth.some((box, place) => ofClass(box[4]) &&
    (filters.kind === "any" || (filters.kind === "missed" && missed[place])));
  return detections || objects;
}
function mark({box, color, dash, text, label, faded}) {
  const place = {x: box[0], y: box[1], width: Math.max(box[2], 1), height: Math.max(box[3], 1)};
  return {faded, color, label, box, shapes: [shape("rect", {...place, class: "halo" + (faded ? " faded" : "")}),
    shape("rect", {...place, class: faded ? "faded" : null, stroke: color, "stroke-dasharray": dash, ...tipped(text)})]};
}
// A label stands on its box, or in it where the image ends.
function label({box, color, label: text}, image) {
  const isAbove = box[1] / image.height > 0.06, isRight = box[0] / image.width > 0.8;
  const across = isRight ? `right:${100 - 100 * Math.min(1, (box[0] + box[2]) / image.width)}%` : `left:${100 * box[0] / image.width}%`;
  return el("span", {class: isAbove ? "label above" : "label", style: `${across};top:${100 * box[1] / image.height}%;background:${color}`}, text);
}
function panel(image, caption, marks) {
  const clear = marks.filter(entry => !entry.faded);
  const labels = filters.labels && clear.length <= MOST_LABELS ? clear.map(entry => label(entry, image)) : [];
  return el("figure", {class: "panel"}, el("div", {class: "stage"}, el("img", {src: image.picture, alt: "", loading: "lazy",
    width: image.width, height: image.height, style: "height:auto"}),
  shape("svg", {viewBox: `0 0 ${image.width} ${image.height}`, preserveAspectRatio: "none"}, ...marks.flatMap(entry => entry.shapes)),
  ...labels), el("figcaption", {}, caption));
}
const isFaded = (k, kind) => (filters.class >= 0 && k !== filters.class) || (filters.kind !== "any" && kind !== filters.kind);
function truthPanel(image) {
  const {missed} = seen(image, image.found);
  return panel(image, `${several(image.objects, "object", "objects")} as annotated`, image.truth.map((box, place) => mark({
    box, color: missed[place] ? ERROR_COLORS.missed : "#ffffff", dash: missed[place] ? "6 4" : null,
    text: classNames[box[4]] + (box[5] ? ", crowd" : missed[place] ? ", missed" : ""), label: classNames[box[4]],
    faded: (filters.class >= 0 && box[4] !== filters.class) || (filters.kind === "missed" && !missed[place])})));
}
function foundPanel(image, found, name, lowest) {
  const {visible} = seen(image, found, lowest);
  const caption = `${several(visible.length, "detection", "detections")} of ${name}, scores from ${lowest.toFixed(2)}`;
  return panel(image, caption, visible.map(box => {
    const kind = kindOf(box), about = kind === "classification" ? `, is ${classNames[image.truth[box[7]][4]]}` : "";
    return mark({box, color: ERROR_COLORS[kind] || (kind === "right" ? RIGHT_COLOR : "#ffffff"), dash: null,
      text: `${classNames[box[4]]} ${box[5].toFixed(2)}: ${kind}${about}`, label: `${classNames[box[4]]} ${box[5].toFixed(2)}`,
      faded: isFaded(box[4], kind)});
  }).reverse());
}
function card(image) {
  const change = other ? el("span", {class: direction(image.f1 - image.other_f1)}, `${signed(image.f1 - image.other_f1)} F1`) : null;
  return el("article", {class: "picture"}, el("header", {}, el("b", {}, image.file), el("span", {}, `F1 ${three(image.f1)}`), change,
    el("span", {class: "quiet"}, `${count(image.right)} of ${several(image.objects, "object", "objects")} found, ${several(image.wrong, "detection", "detections")} wrong`)),
  el("div", {class: "panels"}, truthPanel(image), foundPanel(image, image.found, content.name, filters.threshold),
    other ? foundPanel(image, image.other_found, other, filters.otherThreshold) : null));
}
let selection = [];
function drawGallery() {
  selection = content.images.filter(matches).sort(orders[filters.order][1]);
  byId("gallery-count").textContent = selection.length ? `${selection.length} of ${content.images.length} images on this page`
    : "None of the images on this page fits; choose another class or kind, or a lower score.";
  byId("pictures").replaceChildren();
  shown = 0;
  showMore();
}
function showMore() {
  byId("pictures").append(...selection.slice(shown, shown + PAGE).map(card));
  shown += PAGE;
  byId("more").hidden = shown >= selection.length;
}
byId("more").addEventListener("click", showMore);
function chooser(id, name, options, key, number) {
  return el("label", {}, name, el("select", {id, onchange: event => {
    filters[key] = number ? +event.target.value : event.target.value;
    drawGallery();
  }}, ...options.map(([value, text]) => el("option", {value, selected: value === filters[key] ? "" : null}, text))));
}
const reading = el("span", {}, threshold.toFixed(2));
byId("gallery-controls").append(
  chooser("gallery-class", "Class", [[-1, "all"], ...classNames.map((name, k) => [k, name])], "class", true),
  chooser("gallery-kind", "Error", [["any", "any or none"], ...KINDS.map(kind => [kind, kind])], "kind"),
  chooser("gallery-order", "Order", Object.entries(orders).map(([key, [text]]) => [key, text]), "order"),
  el("label", {}, "Scores from", el("input", {type: "range", id: "gallery-threshold", min: 0.05, max: 0.95, step: 0.01, value: threshold,
    oninput: event => {
      filters.threshold = filters.otherThreshold = +event.target.value;
      reading.textContent = filters.threshold.toFixed(2);
      drawGallery();
    }}), reading),
  el("label", {}, el("input", {type: "checkbox", id: "gallery-labels", checked: "", onchange: event => {
    filters.labels = event.target.checked;
    drawGallery();
  }}), "labels"));
byId("gallery-legend").replaceChildren(...legend([["right", RIGHT_COLOR],
  ...KINDS.map(kind => [kind, ERROR_COLORS[kind]])]).childNodes);
function chooseClass(k) {
  chooseCurve(k);
  filters.class = k;
  byId("gallery-class").value = k;
  drawGallery();
  byId("gallery").scrollIntoView();
}
drawGallery();
if (content.image_differences) byId("image-differences").append(el("div", {class: "card"},
  el("h3", {}, `Images that differ most from ${other}`), content.image_differences.length
    ? el("div", {class: "scroll tall"}, sortedTable([{key: "image", name: "image", text: true}, {key: "objects", name: "objects"},
      {key: "F1", name: "F1", format: three}, {key: "other F1", name: "F1 before", format: three, meaning: other},
      {key: "difference", name: "difference", format: signed, sign: true}], content.image_differences, {by: "difference"}))
    : el("p", {class: "quiet"}, "No image differs.")));
