// A figure with its recent past: a number, and a line that ends where it is.

import { element } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
/** As many points as there are: five minutes of one each two seconds. */
const POINTS = 150;
const WIDTH = 200;
const HEIGHT = 36;

function shape(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [attribute, value] of Object.entries(attributes)) node.setAttribute(attribute, value);
  return node;
}

export class Plot {
  #values = [];
  #format;
  #number = element("b", "number", "–");
  #peak = element("span", "peak");
  #line = shape("polyline", { class: "line" });
  #area = shape("polygon", { class: "area" });

  /** `format` makes text of a value. */
  constructor(parent, label, format = (value) => value.toLocaleString("en")) {
    this.#format = format;
    const chart = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    chart.append(this.#area, this.#line);
    const figure = element("div", "figure");
    figure.append(element("span", "label", label), this.#number, chart, this.#peak);
    parent.append(figure);
  }

  /** Forgets everything, as when the server is another one. */
  clear() {
    this.#values = [];
  }

  add(value) {
    const values = this.#values;
    values.push(value);
    if (values.length > POINTS) values.shift();
    const most = Math.max(...values);
    const left = WIDTH - ((values.length - 1) * WIDTH) / (POINTS - 1);
    const points = values.map((value, index) => {
      const x = left + (index * WIDTH) / (POINTS - 1);
      return `${x.toFixed(1)},${(HEIGHT - 1 - (value / (most || 1)) * (HEIGHT - 3)).toFixed(1)}`;
    });
    this.#number.textContent = this.#format(value);
    this.#peak.textContent = `highest ${this.#format(most)}`;
    this.#line.setAttribute("points", points.join(" "));
    this.#area.setAttribute("points", `${left.toFixed(1)},${HEIGHT} ${points.join(" ")} ${WIDTH},${HEIGHT}`);
  }
}
