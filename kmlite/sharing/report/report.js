"use strict";
// The language switch, and the browser of questions. Text from data reaches the page through textContent alone.
(() => {
  const PAGE = 20;
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  // ---- language: both are in the page, and the root's lang says which one shows

  function t(english, korean) {
    const both = document.createDocumentFragment();
    both.append(element("span", { class: "en", lang: "en" }, english), element("span", { class: "ko", lang: "ko" }, korean));
    return both;
  }

  function option(value, english, korean) {
    // an option shows plain text only, so its words are set when the language is
    return element("option", { value, "data-en": english, "data-ko": korean ?? english }, root.lang === "ko" ? korean ?? english : english);
  }

  function speak(language) {
    root.lang = language;
    for (const button of document.querySelectorAll("[data-language]")) {
      button.setAttribute("aria-pressed", String(button.dataset.language === language));
    }
    for (const worded of document.querySelectorAll("[data-en]")) worded.textContent = worded.dataset[language];
  }

  for (const button of document.querySelectorAll("[data-language]")) {
    button.addEventListener("click", () => speak(button.dataset.language));
  }

  // ---- print: what is folded is opened, and folded again

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details.print:not([open])")];
    for (const details of opened) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of opened) details.open = false;
  });

  // ---- the browser of questions

  const form = byId("filters");
  if (!form) return;
  const data = JSON.parse(byId("data").textContent);
  const [chooseSet, chooseOther, chooseSubject, chooseVerdict, search] = ["set", "other", "subject", "verdict", "search"].map(byId);
  const LETTERS = ["A", "B", "C", "D", "E"];
  const searched = {};
  let page = 0;

  const nameOf = (set) => [`${set.split}: ${set.name[0]}`, `${set.split}: ${set.name[1]}`];
  const subjectOf = (name) => data.subjects[name] ?? [name, name];
  const current = () => data.sets[chooseSet.value];
  const other = () => (chooseOther.value === "" ? null : data.sets[chooseOther.value]);

  const VERDICTS = {
    all: ["all", "모두", () => true],
    right: ["right", "맞은 것", (now) => now[1]],
    wrong: ["wrong", "틀린 것", (now) => !now[1]],
    unreadable: ["unreadable answers", "읽지 못한 답", (now) => now[0] === null],
    gained: ["flipped: wrong → right", "뒤집힘: 틀림 → 맞음", (now, was) => was && now[1] && !was[1]],
    lost: ["flipped: right → wrong", "뒤집힘: 맞음 → 틀림", (now, was) => was && !now[1] && was[1]],
    changed: ["another answer than before", "답이 달라진 것", (now, was) => was && now[0] !== was[0]],
  };

  function refill(select, options, value) {
    select.replaceChildren(...options);
    select.value = options.some((made) => made.value === value) ? value : options[0].value;
  }

  function refillOthers() {
    const at = Number(chooseSet.value);
    const same = data.sets.map((set, i) => [set, i]).filter(([set, i]) => set.split === current().split && i !== at);
    const options = same.map(([set, i]) => option(String(i), ...nameOf(set)));
    // the nearest earlier model is what one wants to see flip
    const before = same.filter(([, i]) => i < at).map(([, i]) => String(i));
    refill(chooseOther, [option("", "none", "없음"), ...options], before[0] ?? "");
    const subjects = [...new Set(data.splits[current().split].map((question) => question[1]))].sort();
    refill(chooseSubject, [option("", "all", "모두"), ...subjects.map((name) => option(`=${name}`, ...subjectOf(name)))], chooseSubject.value);
    refillVerdicts();
  }

  function refillVerdicts() {
    const names = Object.keys(VERDICTS).slice(0, other() ? undefined : 4);
    refill(chooseVerdict, names.map((name) => option(name, VERDICTS[name][0], VERDICTS[name][1])), chooseVerdict.value);
  }

  function textToSearch(split) {
    searched[split] ??= data.splits[split].map((question) => [question[0], ...(question[3] ?? [])].join("\n").toLowerCase());
    return searched[split];
  }

  function matches() {
    const { split, answers } = current();
    const before = other()?.answers;
    const passes = VERDICTS[chooseVerdict.value][2];
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const texts = words.length ? textToSearch(split) : null;
    const found = [];
    data.splits[split].forEach((question, i) => {
      if (!answers[i] || !passes(answers[i], before?.[i])) return;
      if (chooseSubject.value && `=${question[1]}` !== chooseSubject.value) return;
      if (texts && !words.every((word) => texts[i].includes(word))) return;
      found.push(i);
    });
    return found;
  }

  function draw() {
    const found = matches();
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(page, pages - 1);
    const all = current().answers.filter(Boolean).length;
    const right = found.filter((i) => current().answers[i][1]).length;
    const [n, of, r] = [found.length, all, right].map((value) => value.toLocaleString("en"));
    byId("found").replaceChildren(t(`${n} of ${of} questions, ${r} of them right`, `${of}문항 가운데 ${n}문항, 그중 ${r}문항이 맞음`));
    byId("list").replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(card));
    byId("pages").replaceChildren(
      turn(0, page > 0, "« first", "« 처음"),
      turn(page - 1, page > 0, "‹ back", "‹ 앞"),
      element("span", { class: "where" }, t(`page ${page + 1} of ${pages}`, `${pages}쪽 가운데 ${page + 1}쪽`)),
      turn(page + 1, page < pages - 1, "next ›", "뒤 ›"),
      turn(pages - 1, page < pages - 1, "last »", "끝 »"),
    );
  }

  function turn(to, possible, english, korean) {
    const button = element("button", { type: "button" }, t(english, korean));
    button.disabled = !possible;
    button.addEventListener("click", () => {
      page = to;
      draw();
      byId("questions").scrollIntoView();
    });
    return button;
  }

  function card(i) {
    const [text, subject, expected, options] = data.splits[current().split][i];
    const now = current().answers[i];
    const was = other()?.answers[i] ?? null;
    const [letter, right, shares, wrote, orders] = now;
    const head = element("p", { class: "head" }, element("span", {}, `${current().split} ${i + 1}`), element("span", {}, t(...subjectOf(subject))));
    head.append(element("span", { class: right ? "verdict right" : "verdict wrong" }, right ? t("✓ right", "✓ 맞음") : t("✗ wrong", "✗ 틀림")));
    if (letter === null) head.append(element("span", {}, t("unreadable answer", "읽지 못한 답")));
    if (was && was[1] !== now[1]) {
      head.append(element("span", { class: "flip" }, now[1] ? t("was wrong before", "이전에는 틀림") : t("was right before", "이전에는 맞음")));
    }
    const made = element("article", { class: "question" }, head, element("p", { class: "text" }, text));
    const list = element("ul", { class: "options" });
    LETTERS.forEach((name, k) => {
      const marks = [];
      if (name === expected) marks.push(t("right answer", "정답"));
      if (name === letter) marks.push(t("answered", "모델의 답"));
      if (was && name === was[0]) marks.push(t("before", "이전 답"));
      if (shares) marks.push(`${(100 * shares[k]).toFixed(1)}%`);
      if (!options && !marks.length) return;
      const mark = element("span", { class: "marks" });
      marks.forEach((said, at) => mark.append(at ? " · " : "", said));
      const line = element("li", {}, element("b", {}, name), element("span", {}, options ? options[k] : "", mark));
      if (name === expected) line.classList.add("correct");
      if (name === letter) line.classList.add("chosen");
      if (shares) {
        const bar = element("span", { class: "share" });
        bar.style.width = `${100 * shares[k]}%`;
        line.append(bar);
      }
      list.append(line);
    });
    made.append(list);
    if (orders) {
      const chosen = orders.map((order) => order ?? "–").join(" ");
      made.append(element("p", { class: "wrote" }, t(`chosen over the orders of the options: ${chosen}`, `선택지 순서를 바꾸어 고른 것: ${chosen}`)));
    }
    if (wrote) {
      made.append(element("details", { class: "wrote" }, element("summary", {}, t("what the model wrote", "모델이 쓴 글")), element("blockquote", {}, wrote)));
    }
    return made;
  }

  function again() {
    page = 0;
    draw();
  }

  let waiting = 0;
  chooseSet.addEventListener("change", () => (refillOthers(), again()));
  chooseOther.addEventListener("change", () => (refillVerdicts(), again()));
  chooseSubject.addEventListener("change", again);
  chooseVerdict.addEventListener("change", again);
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(again, 120);
  });
  form.addEventListener("submit", (event) => event.preventDefault());

  refill(chooseSet, data.sets.map((set, i) => option(String(i), ...nameOf(set))), String(data.sets.length - 1));
  refillOthers();
  form.hidden = false;
  draw();
})();
