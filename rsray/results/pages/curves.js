// Curves to look into: the pointer reads values, a name shows or hides its curve, a drag zooms.
"use strict";
const SVG = "http://www.w3.org/2000/svg", WIDTH = 720, HEIGHT = 400;
const LEFT = 48, RIGHT = WIDTH - 14, TOP = 12, BOTTOM = HEIGHT - 44;

function element(name, attributes, parent, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

// Values between two limits, at steps of 1, 2 or 5 times a power of ten.
function ticks(low, high, most) {
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(factor => factor * power).find(each => each >= rough);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9; k++) found.push(k * step);
  return found;
}

function start(holder) {
  const {radii, curves} = JSON.parse(holder.dataset.curves);
  const whole = [0, radii[radii.length - 1] || 1];
  let [low, high] = whole, hidden = new Set(), dragged = null;

  holder.replaceChildren();
  holder.classList.add("live");
  const svg = element("svg", {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img"}, holder);
  svg.setAttribute("aria-label", holder.dataset.description);
  const clip = `clip-${[...document.querySelectorAll("[data-curves]")].indexOf(holder)}`;
  const inside = {x: LEFT, y: TOP, width: RIGHT - LEFT, height: BOTTOM - TOP};
  element("rect", inside, element("clipPath", {id: clip}, svg));
  const axes = element("g", {class: "axes"}, svg);
  const lines = element("g", {"clip-path": `url(#${clip})`, fill: "none"}, svg);
  const marked = element("rect", {y: TOP, height: BOTTOM - TOP, class: "marked"}, svg);
  const cursor = element("line", {y1: TOP, y2: BOTTOM, class: "cursor"}, svg);
  const legend = document.createElement("div");
  legend.className = "legend";
  const told = document.createElement("p");
  holder.append(legend, told);

  const x = radius => LEFT + (radius - low) / (high - low) * (RIGHT - LEFT);
  const y = accuracy => BOTTOM - accuracy * (BOTTOM - TOP);
  const percent = value => value === null ? "not decided" : `${(100 * value).toFixed(1)} %`;

  const keys = curves.map((curve, position) => {
    const button = document.createElement("button");
    button.type = "button";
    button.onclick = () => {
      hidden.has(position) ? hidden.delete(position) : hidden.add(position);
      draw();
    };
    const line = document.createElement("span"), value = document.createElement("b");
    line.style.borderTop = `3px ${curve.dash ? "dashed" : "solid"} ${curve.colour}`;
    button.append(line, ` ${curve.name} `, value);
    legend.append(button);
    return {button, value};
  });
  const reset = document.createElement("button");
  reset.type = "button";
  reset.textContent = "whole range";
  reset.onclick = () => zoom(...whole);
  legend.append(reset);

  function zoom(from, to) {
    if (to - from > 2 * (radii[1] - radii[0])) [low, high] = [from, to];
    draw();
  }

  function draw() {
    axes.replaceChildren();
    lines.replaceChildren();
    for (const value of ticks(low, high, 8)) {
      element("line", {x1: x(value), x2: x(value), y1: TOP, y2: BOTTOM}, axes);
      const shown = Number(value.toFixed(4)).toString();
      element("text", {x: x(value), y: BOTTOM + 18, "text-anchor": "middle"}, axes, shown);
    }
    for (const value of ticks(0, 1, 5)) {
      element("line", {x1: LEFT, x2: RIGHT, y1: y(value), y2: y(value)}, axes);
      const place = {x: LEFT - 6, y: y(value) + 4, "text-anchor": "end"};
      element("text", place, axes, `${Math.round(100 * value)} %`);
    }
    const middle = {x: (LEFT + RIGHT) / 2, y: HEIGHT - 6, "text-anchor": "middle"};
    element("text", middle, axes, "l2 radius (pixels in [0, 1])");
    curves.forEach((curve, position) => {
      keys[position].button.setAttribute("aria-pressed", String(!hidden.has(position)));
      if (hidden.has(position)) return;
      for (const [radius, value] of curve.points) {
        element("circle", {cx: x(radius), cy: y(value), r: 4, style: `fill: ${curve.colour}`}, lines);
      }
      if (curve.points.length) return;
      const along = values => radii.map((radius, k) => `${x(radius)},${y(values[k])}`);
      if (curve.band.length) {
        const around = [...along(curve.band[0]), ...along(curve.band[1]).reverse()].join(" ");
        element("polygon", {points: around, style: `fill: ${curve.colour}; opacity: .15`}, lines);
      }
      const drawn = along(curve.accuracy).join(" ");
      const look = {points: drawn, style: `stroke: ${curve.colour}`, "stroke-width": 2};
      if (curve.dash) look["stroke-dasharray"] = curve.dash;
      element("polyline", look, lines);
    });
    reset.hidden = low === whole[0] && high === whole[1];
    read(null);
  }

  // The radius of the drawing's own that is nearest to the pointer.
  function radiusAt(event) {
    const box = svg.getBoundingClientRect();
    const at = (event.clientX - box.left) / box.width * WIDTH;
    const share = Math.min(1, Math.max(0, (at - LEFT) / (RIGHT - LEFT)));
    return low + share * (high - low);
  }

  function read(radius) {
    const nearest = radius === null ? null : Math.round(radius / (radii[1] - radii[0]));
    const k = nearest === null ? null : Math.min(nearest, radii.length - 1);
    cursor.style.display = k === null ? "none" : "";
    if (k !== null) {
      cursor.setAttribute("x1", x(radii[k]));
      cursor.setAttribute("x2", x(radii[k]));
    }
    keys.forEach(({value}, position) => {
      value.textContent = k === null ? "" : percent(curves[position].accuracy[k]);
    });
    told.textContent = k === null
      ? "Point at the curves to read them, press a name to hide its curve, drag to zoom."
      : `Certified accuracy at radius ${Number(radii[k].toFixed(4))}`;
  }

  function mark(from, to) {
    marked.setAttribute("x", Math.min(x(from), x(to)));
    marked.setAttribute("width", Math.abs(x(to) - x(from)));
  }

  svg.onpointerdown = event => { dragged = radiusAt(event); };
  svg.onpointermove = event => {
    read(radiusAt(event));
    if (dragged !== null) mark(dragged, radiusAt(event));
  };
  svg.onpointerup = event => {
    const from = dragged, to = radiusAt(event);
    dragged = null;
    mark(0, 0);
    if (from !== null && from !== to) zoom(Math.min(from, to), Math.max(from, to));
  };
  svg.onpointerleave = () => { dragged = null; mark(0, 0); read(null); };
  svg.ondblclick = () => zoom(...whole);
  draw();
}

for (const holder of document.querySelectorAll("[data-curves]")) start(holder);
