// Shows one slice with its masks and prompts; a drag or click becomes image pixels.
const canvas = element.querySelector("canvas");
const context = canvas.getContext("2d");
const empty = element.querySelector(".ms-empty");
const where = element.querySelector(".ms-where");
const MAX_HEIGHT = 560;
let view = null, image = null, mask = null, tool = "box", drag = null, latest = 0;
let wheel = 0, wheelTimer = null;

const load = (source) => source ? new Promise((done, failed) => {
  const picture = new Image();
  picture.onload = () => done(picture);
  picture.onerror = () => failed(new Error("picture"));
  picture.src = source;
}) : Promise.resolve(null);

async function show() {
  const next = props.value && props.value.image ? props.value : null;
  const number = ++latest;
  if (!next) {
    view = null;
    canvas.style.display = "none";
    empty.style.display = "";
    return;
  }
  const pictures = await Promise.all([load(next.image), load(next.mask)]);
  if (number !== latest) return; // a newer slice has come meanwhile
  [image, mask] = pictures;
  view = next;
  canvas.dataset.index = view.index;
  canvas.dataset.axis = view.axis;
  canvas.dataset.stamp = view.stamp;
  canvas.dataset.masked = view.mask ? "yes" : "no";
  drag = null;
  draw();
}

function draw() {
  if (!view) return;
  empty.style.display = "none";
  canvas.style.display = "block";
  const room = Math.max(160, element.querySelector(".ms-frame").clientWidth);
  const tall = view.height * view.aspect;
  const scale = Math.min(room / view.width, MAX_HEIGHT / tall);
  const dense = window.devicePixelRatio || 1;
  canvas.style.width = `${view.width * scale}px`;
  canvas.style.height = `${tall * scale}px`;
  canvas.width = Math.round(view.width * scale * dense);
  canvas.height = Math.round(tall * scale * dense);
  context.save();
  context.translate(view.flip[0] ? canvas.width : 0, view.flip[1] ? canvas.height : 0);
  context.scale(view.flip[0] ? -1 : 1, view.flip[1] ? -1 : 1);
  context.imageSmoothingEnabled = true;
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = false;
  if (mask) context.drawImage(mask, 0, 0, canvas.width, canvas.height);
  const sx = canvas.width / view.width, sy = canvas.height / view.height;
  const frame = (box, color, dash) => {
    context.strokeStyle = color;
    context.lineWidth = 2 * dense;
    context.setLineDash(dash);
    context.strokeRect(box[0] * sx, box[1] * sy, (box[2] + 1 - box[0]) * sx, (box[3] + 1 - box[1]) * sy);
  };
  for (const said of view.prompts) {
    if (said.box) frame(said.box, said.color, []);
    if (!said.point) continue;
    const x = (said.point[0] + 0.5) * sx, y = (said.point[1] + 0.5) * sy, r = 6 * dense;
    context.setLineDash([]);
    context.fillStyle = said.label ? "#16a34a" : "#dc2626";
    context.beginPath();
    context.arc(x, y, r, 0, 2 * Math.PI);
    context.fill();
    context.strokeStyle = "white";
    context.lineWidth = 2 * dense;
    context.beginPath();
    context.moveTo(x - r / 2, y);
    context.lineTo(x + r / 2, y);
    if (said.label) { context.moveTo(x, y - r / 2); context.lineTo(x, y + r / 2); }
    context.stroke();
  }
  if (drag) frame(drag.box, view.color, [6 * dense, 4 * dense]);
  context.restore();
  letters(dense);
}

function letters(dense) {
  const [left, right, top, bottom] = view.edges;
  context.font = `${14 * dense}px sans-serif`;
  context.fillStyle = "#facc15";
  context.textBaseline = "middle";
  context.textAlign = "left";
  context.fillText(left, 4 * dense, canvas.height / 2);
  context.textAlign = "right";
  context.fillText(right, canvas.width - 4 * dense, canvas.height / 2);
  context.textAlign = "center";
  context.fillText(top, canvas.width / 2, 10 * dense);
  context.fillText(bottom, canvas.width / 2, canvas.height - 10 * dense);
}

function pixel(event) {
  const area = canvas.getBoundingClientRect();
  const at = (offset, side, count, flip) => {
    const place = Math.min(count - 1, Math.max(0, Math.floor(offset / side * count)));
    return flip ? count - 1 - place : place;
  };
  return [
    at(event.clientX - area.left, area.width, view.width, view.flip[0]),
    at(event.clientY - area.top, area.height, view.height, view.flip[1]),
  ];
}

const send = (what) => trigger("submit", { ...what, axis: view.axis, index: view.index });

function choose(name) {
  tool = name;
  for (const button of element.querySelectorAll("[data-tool]"))
    button.setAttribute("aria-pressed", button.dataset.tool === tool ? "true" : "false");
}
for (const button of element.querySelectorAll("[data-tool]"))
  button.addEventListener("click", () => choose(button.dataset.tool));

canvas.addEventListener("pointerdown", (event) => {
  if (!view || event.button !== 0) return;
  const [x, y] = pixel(event);
  if (tool !== "box") {
    send({ point: [x, y], label: tool === "plus" ? 1 : 0 });
    return;
  }
  canvas.setPointerCapture(event.pointerId);
  drag = { from: [x, y], box: [x, y, x, y] };
  draw();
});
canvas.addEventListener("pointermove", (event) => {
  if (!view) return;
  const [x, y] = pixel(event);
  where.textContent = `x ${x}  y ${y}`;
  if (!drag || drag.sent) return;
  const [a, b] = drag.from;
  drag.box = [Math.min(a, x), Math.min(b, y), Math.max(a, x), Math.max(b, y)];
  draw();
});
canvas.addEventListener("pointerup", () => {
  if (!drag || drag.sent) return;
  const box = drag.box;
  if (box[2] - box[0] < 1 || box[3] - box[1] < 1) { drag = null; draw(); return; } // a mere click
  drag.sent = true;
  send({ box });
});
canvas.addEventListener("pointercancel", () => { drag = null; draw(); });
canvas.addEventListener("wheel", (event) => {
  if (!view || view.count < 2) return;
  event.preventDefault();
  wheel += Math.sign(event.deltaY);
  if (wheelTimer) return;
  wheelTimer = setTimeout(() => {
    const step = wheel;
    wheel = 0;
    wheelTimer = null;
    if (step) trigger("select", { step });
  }, 40);
}, { passive: false });
canvas.addEventListener("keydown", (event) => {
  const step = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10 }[event.key];
  if (!step || !view) return;
  event.preventDefault();
  trigger("select", { step });
});
new ResizeObserver(draw).observe(element.querySelector(".ms-frame"));
watch("value", show);
show();
