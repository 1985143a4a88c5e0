"use strict";

const at = (id) => document.getElementById(id);
const form = at("form");
const text = at("text");
const key = at("key");
key.value = sessionStorage.getItem("key") ?? "";

form.addEventListener("submit", (event) => {
  event.preventDefault();
  judge();
});
text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
for (const example of document.querySelectorAll("button.link")) {
  example.addEventListener("click", () => {
    text.value = example.textContent;
    form.requestSubmit();
  });
}

let latest = 0; // of two requests under way, only the later one's answer is shown

async function judge() {
  const review = text.value;
  const turn = ++latest;
  const button = form.querySelector("[type=submit]");
  button.ariaBusy = true; // not disabled: it would lose the focus
  try {
    const answer = await ask(review);
    if (turn === latest) show(review, answer);
  } catch (error) {
    if (turn === latest) complain(error.message);
  } finally {
    if (turn === latest) button.ariaBusy = false;
  }
}

async function ask(review) {
  const headers = { "content-type": "application/json" };
  if (key.value) headers.authorization = `Bearer ${key.value}`;
  let response;
  try {
    response = await fetch("explain", { method: "POST", headers, body: JSON.stringify({ text: review.toWellFormed() }) });
  } catch {
    throw new Error("The service does not answer. Try again in a moment.");
  }
  if (response.status === 401) {
    at("key-row").hidden = false;
    key.focus();
    throw new Error(key.value ? "This API key is not known." : "Enter an API key, then try again.");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error ?? `The service answered ${response.status}.`);
  if (key.value) sessionStorage.setItem("key", key.value);
  return answer;
}

function complain(message) {
  at("result").hidden = true;
  at("error").textContent = message;
  at("error").hidden = false;
}

function show(review, answer) {
  at("error").hidden = true;
  at("label").textContent = answer.label === "positive" ? "Positive" : "Negative";
  at("percent").textContent = `${percent(answer.positive)} likely to be positive`;
  at("meter").value = answer.positive;
  at("version").textContent = answer.model_version;
  at("marked").replaceChildren(...marked(Array.from(review), answer.terms));
  at("terms").replaceChildren(...strongest(answer.terms).map(row));
  at("unknown").hidden = answer.terms.length > 0;
  at("result").hidden = false;
  at("result").scrollIntoView({ block: "nearest" });
}

// 100 % and 0 % would be a promise
function percent(share) {
  const rounded = Math.round(share * 1000) / 10;
  if (rounded >= 100) return "over 99.9 %";
  return rounded <= 0 ? "under 0.1 %" : `${rounded} %`;
}

/** The text's nodes: stretches between the ends of all spans, each marked with the sum of the terms that cover it. */
function marked(letters, terms) {
  const spans = terms.flatMap((term) => term.spans.map(([start, end]) => ({ ...term, start, end })));
  spans.sort((a, b) => a.start - b.start);
  const cuts = [...new Set([0, letters.length, ...spans.flatMap(({ start, end }) => [start, end])])].sort((a, b) => a - b);
  let covering = [];
  let next = 0;
  const pieces = cuts.slice(1).map((end, i) => {
    covering = covering.filter((span) => span.end > cuts[i]);
    while (next < spans.length && spans[next].start <= cuts[i]) covering.push(spans[next++]);
    return {
      text: letters.slice(cuts[i], end).join(""),
      sum: covering.reduce((sum, span) => sum + span.contribution, 0),
      why: covering.map((span) => `${span.term} ${signed(span.contribution)}`).join("\n"),
    };
  });
  const most = pieces.reduce((most, piece) => Math.max(most, Math.abs(piece.sum)), 1);
  return pieces.map(({ text, sum, why }) => {
    if (Math.abs(sum) < 0.05 * most) return document.createTextNode(text);
    const mark = document.createElement("mark");
    mark.className = sum > 0 ? "for" : "against";
    mark.style.setProperty("--share", Math.abs(sum) / most);
    mark.title = why;
    mark.textContent = text;
    return mark;
  });
}

function strongest(terms) {
  return [...terms].sort((a, b) => Math.abs(b.contribution) - Math.abs(a.contribution)).slice(0, 10);
}

function row({ term, contribution }) {
  const cells = [term, signed(contribution)].map((content) => {
    const cell = document.createElement("td");
    cell.textContent = content;
    return cell;
  });
  const line = document.createElement("tr");
  line.append(...cells);
  return line;
}

function signed(number) {
  return (number < 0 ? "−" : "+") + Math.abs(number).toFixed(2);
}
