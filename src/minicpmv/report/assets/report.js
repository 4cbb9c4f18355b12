// Draws the curves from the numbers in the page, and lets a reader find, order, unfold and enlarge answers.
document.documentElement.classList.add("scripted");
const { runs, charts } = JSON.parse(document.getElementById("curves").textContent);
const controls = document.querySelector(".controls");
const several = runs.length > 1;

// ---- numbers

function words(value) {
  const small = value !== 0 && Math.abs(value) < 1e-4;
  return small ? value.toExponential(2).replace(/\.?0+e/, "e") : value.toLocaleString("en", { maximumSignificantDigits: 4 });
}

/** Round numbers at equal distances; the first lies at or below `low`, the last at or above `high`. */
function roundTicks(low, high, most) {
  const power = 10 ** Math.floor(Math.log10((high - low || Math.abs(high) || 1) / most));
  const step = [1, 2, 5, 10, 20].map((factor) => factor * power).find((each) => Math.ceil(high / each) - Math.floor(low / each) < most);
  const first = Math.floor(low / step), last = Math.max(Math.ceil(high / step), first + 1);
  return Array.from({ length: last - first + 1 }, (_, number) => Number(((first + number) * step).toPrecision(12)));
}

/** Of a logarithmic axis: 1, 2 and 5 times powers of ten, or the powers alone where those are many. */
function logarithmicTicks(low, high) {
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
  const factors = last - first > 3 ? [1] : [1, 2, 5];
  const all = Array.from({ length: last - first + 1 }, (_, number) => factors.map((factor) => factor * 10 ** (first + number))).flat();
  const from = all.findLastIndex((tick) => tick <= low), to = all.findIndex((tick) => tick >= high);
  return all.slice(Math.max(from, 0), to < 0 ? all.length : to + 1).map((tick) => Number(tick.toPrecision(12)));
}

/** The mean of each value's surroundings, a twentieth of all; towards the ends of fewer, alike on both sides. */
function smooth(points) {
  const known = points.filter((point) => point[1] !== null);
  const reach = Math.floor(known.length / 40);
  return known.map(([step], place) => {
    const span = Math.min(reach, place, known.length - 1 - place);
    const near = known.slice(place - span, place + span + 1);
    return [step, near.reduce((sum, point) => sum + point[1], 0) / near.length];
  });
}

// ---- drawing

const colourOf = (series, index) => `colour-${(several ? series.run : index) % 8}`;

function draw(figure, chart) {
  const plot = figure.querySelector(".plot");
  const width = plot.clientWidth, height = figure.classList.contains("wide") ? 340 : 210;
  if (!width) return; // inside something that is closed
  const logarithmic = controls.elements.logarithmic.checked && (chart.name === "loss" || chart.name.startsWith("grad_norm"));
  const usable = (value) => value !== null && (!logarithmic || value > 0);
  const values = chart.series.flatMap((series) => series.points.map((point) => point[1])).filter(usable);
  if (!values.length) return plot.replaceChildren("no finite number");
  let low = Math.min(...values);
  const high = Math.max(...values);
  if (!logarithmic && low > 0 && low < 0.5 * high) low = 0; // a curve that falls far is seen against zero
  const ticks = logarithmic ? logarithmicTicks(low, high) : roundTicks(low, high, height > 300 ? 8 : 5);
  const [bottom, top] = [ticks[0], ticks.at(-1)];
  const lastStep = Math.max(1, ...chart.series.map((series) => series.points.at(-1)[0]));
  const left = 14 + 7 * Math.max(...ticks.map((tick) => words(tick).length)), right = 12, above = 8, below = 24;
  const x = (step) => left + (step / lastStep) * (width - left - right);
  const part = (value) => logarithmic ? Math.log(value / bottom) / Math.log(top / bottom || Math.E) : (value - bottom) / (top - bottom);
  const y = (value) => height - below - part(value) * (height - above - below);
  const path = (points) => {
    let pen = "M";
    return points.map(([step, value]) => {
      if (!usable(value)) return (pen = "M"), "";
      const piece = `${pen}${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = "L";
      return piece;
    }).join("");
  };
  let svg = ticks.map((tick) => `<path class="grid" d="M${left} ${y(tick)}H${width - right}"/><text x="${left - 8}" y="${y(tick) + 4}" text-anchor="end">${words(tick)}</text>`).join("");
  const steps = roundTicks(0, lastStep, width > 600 ? 9 : 5).filter((tick) => tick <= lastStep && Number.isInteger(tick));
  svg += steps.map((tick) => `<text x="${x(tick)}" y="${height - 4}" text-anchor="middle">${words(tick)}</text>`).join("");
  chart.series.forEach((series, index) => {
    const smoothed = controls.elements.smooth.checked && chart.is_noisy && !series.is_measured && series.points.length >= 40;
    const style = `${colourOf(series, index)}${several && series.is_measured && chart.has_names ? " dashed" : ""}`;
    svg += `<path class="line ${style}${smoothed ? " raw" : ""}" d="${path(series.points)}"/>`;
    if (smoothed) svg += `<path class="line ${style}" d="${path(smooth(series.points))}"/>`;
    if (series.is_measured || series.points.length === 1) {
      svg += series.points.filter((point) => usable(point[1])).map(([step, value]) => `<circle class="mark ${style}" cx="${x(step)}" cy="${y(value)}" r="3"/>`).join("");
    }
  });
  // Only numbers of ours stand in this text; names are put in as text below.
  plot.innerHTML = `<svg height="${height}" viewBox="0 0 ${width} ${height}" aria-hidden="true">${svg}</svg>`;
  plot.scale = { left, right, width, height, lastStep, x };
}

// ---- values under the pointer, or at the place that the arrow keys have reached

function nearest(points, step) {
  let low = 0, high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < step) low = middle;
    else high = middle;
  }
  return Math.abs(points[low][0] - step) <= Math.abs(points[high][0] - step) ? points[low] : points[high];
}

function tell(plot, chart, step) {
  hush(plot);
  if (!plot.scale) return;
  const { x, width, height } = plot.scale;
  const densest = chart.series.reduce((most, series) => (series.points.length > most.points.length ? series : most));
  const [here] = nearest(densest.points, step);
  plot.here = here;
  const box = document.createElement("div");
  box.className = "values";
  box.append(line(`step ${here.toLocaleString("en")}`, ""));
  chart.series.forEach((series, index) => {
    const [at, value] = nearest(series.points, here);
    const name = several ? runs[series.run] + (chart.has_names ? `, ${series.name}` : "") : series.name;
    const row = line(at === here ? name : `${name}, step ${at.toLocaleString("en")}`, value === null ? "not finite" : words(value));
    const dot = document.createElement("i");
    dot.className = colourOf(series, index);
    row.firstChild.prepend(dot);
    box.append(row);
  });
  plot.querySelector("svg").insertAdjacentHTML("beforeend", `<path class="here" d="M${x(here)} 0V${height - 24}"/>`);
  plot.append(box);
  figureOf(plot).querySelector("[aria-live]").textContent = [...box.children].map((row) => [...row.children].map((part) => part.textContent).join(" ")).join(", ");
  const before = x(here) > width / 2;
  box.style.left = `${Math.max(0, before ? x(here) - box.offsetWidth - 12 : Math.min(x(here) + 12, width - box.offsetWidth))}px`;
}

function line(name, value) {
  const row = document.createElement("p");
  for (const text of [name, value]) row.appendChild(document.createElement("span")).textContent = text;
  return row;
}

const figureOf = (plot) => plot.closest("figure");

function hush(plot) {
  for (const old of plot.querySelectorAll(".here, .values")) old.remove();
}

for (const chart of charts) {
  const figure = document.querySelector(`[data-chart="${CSS.escape(chart.name)}"]`);
  const plot = figure.querySelector(".plot");
  if (several) figure.dataset.several = "";
  plot.addEventListener("pointermove", (event) => {
    if (!plot.scale) return;
    const { left, right, width, lastStep } = plot.scale;
    tell(plot, chart, ((event.clientX - plot.getBoundingClientRect().left - left) / (width - left - right)) * lastStep);
  });
  plot.addEventListener("pointerleave", () => hush(plot));
  plot.addEventListener("blur", () => hush(plot));
  plot.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!move) return;
    event.preventDefault();
    const steps = [...new Set(chart.series.flatMap((series) => series.points.map((point) => point[0])))].sort((a, b) => a - b);
    const now = steps.indexOf(plot.here);
    tell(plot, chart, steps[Math.min(Math.max(now + move, 0), steps.length - 1)]);
  });
  const redraw = () => draw(figure, chart);
  new ResizeObserver(redraw).observe(plot);
  controls.addEventListener("change", redraw);
}
if (controls) controls.hidden = false;

// ---- tables that are wider than the page can be moved by keys

function reach() {
  for (const box of document.querySelectorAll(".scroll")) {
    if (box.scrollWidth <= box.clientWidth || box.tabIndex === 0) continue;
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", `table: ${box.querySelector("caption")?.textContent ?? box.closest("section, header").querySelector("h1, h2").textContent}`);
  }
}

new ResizeObserver(reach).observe(document.body);

// ---- answers

for (const section of document.querySelectorAll(".answers")) {
  const cards = [...section.querySelectorAll(".card")];
  const buttons = [...section.querySelectorAll(".filter button")];
  const find = section.querySelector(".find input"), order = section.querySelector(".order select");
  const more = section.querySelector(".more");
  const texts = new Map(cards.map((card) => [card, card.querySelector(".talk").textContent.toLowerCase()]));
  const atATime = section.classList.contains("long") ? 8 : 12;
  let most = atATime;

  function arrange() {
    const kind = buttons.find((button) => button.getAttribute("aria-pressed") === "true").dataset.kind;
    const wanted = find.value.trim().toLowerCase();
    const key = order.value, sign = key === "place" ? 1 : -1;
    const found = cards.filter((card) => (!kind || card.dataset.kind === kind) && texts.get(card).includes(wanted));
    found.sort((one, other) => sign * (one.dataset[key] - other.dataset[key]) || one.dataset.place - other.dataset.place);
    for (const card of cards) card.hidden = true;
    for (const card of found.slice(0, most)) card.hidden = false;
    section.querySelector(".cards").append(...found);
    more.hidden = false;
    more.querySelector("button").hidden = found.length <= most;
    more.querySelector("[role=status]").textContent = found.length ? `${Math.min(most, found.length).toLocaleString("en")} of ${found.length.toLocaleString("en")}` : "no answer has this text";
    fold(section);
  }

  function start() {
    most = atATime;
    arrange();
  }

  for (const button of buttons) {
    button.addEventListener("click", () => {
      for (const each of buttons) each.setAttribute("aria-pressed", String(each === button));
      start();
    });
  }
  find.addEventListener("input", start);
  order.addEventListener("change", start);
  more.querySelector("button").addEventListener("click", () => {
    most += 2 * atATime;
    arrange();
  });
  for (const label of section.querySelectorAll(".find, .order")) label.hidden = false;
  start();
}

/** Puts a button behind each text that is cut to a few lines. */
function fold(place) {
  for (const text of place.querySelectorAll(".clamp:not(.measured)")) {
    if (!text.clientHeight) continue; // hidden, and measured when it is shown
    text.classList.add("measured");
    if (text.scrollHeight <= text.clientHeight + 2) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "unfold";
    button.textContent = "show all";
    button.addEventListener("click", () => {
      button.textContent = text.classList.toggle("whole") ? "show less" : "show all";
    });
    text.after(button);
  }
}

for (const details of document.querySelectorAll("details.run")) details.addEventListener("toggle", () => fold(details));

// ---- pictures, and the command

for (const image of document.querySelectorAll("[data-like]")) {
  image.src = document.querySelector(`[data-number="${image.dataset.like}"]`).src;
}
const enlarged = document.querySelector(".enlarged");
for (const button of document.querySelectorAll(".enlarge")) {
  button.addEventListener("click", () => {
    const small = button.querySelector("img"), large = enlarged.querySelector("img");
    large.src = small.src;
    large.alt = small.alt;
    large.classList.toggle("tiny", small.naturalWidth <= 128 && small.naturalHeight <= 128);
    enlarged.querySelector("p").textContent = small.alt;
    enlarged.showModal();
  });
}
enlarged.addEventListener("click", (event) => {
  if (event.target === enlarged) enlarged.close(); // the space around the picture
});

for (const button of navigator.clipboard ? document.querySelectorAll(".copy") : []) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.previousElementSibling.textContent);
    button.textContent = "copied";
  });
}

// ---- a run that goes on: the server that wrote this page has a newer one when its version differs

const { version } = document.body.dataset;
if (version !== undefined) {
  setInterval(async () => {
    const answer = await fetch("version").catch(() => null); // the server was stopped: the page stays as it is
    const isInUse = enlarged.open || document.activeElement?.matches("input, select");
    if (answer?.ok && (await answer.text()) !== version && !isInUse) location.reload();
  }, 3000);
}
