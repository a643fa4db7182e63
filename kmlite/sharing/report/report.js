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

  function t(english, korean) {
    const both = document.createDocumentFragment();
    both.append(element("span", { class: "en", lang: "en" }, english), element("span", { class: "ko", lang: "ko" }, korean));
    return both;
  }

  function speak(language) {
    root.lang = language;
    for (const button of document.querySelectorAll("[data-language]")) button.setAttribute("aria-pressed", String(button.dataset.language === language));
    // an option shows plain text only, so its words are set when the language is
    for (const worded of document.querySelectorAll("[data-en]")) worded.textContent = worded.dataset[language];
  }
  for (const button of document.querySelectorAll("[data-language]")) button.addEventListener("click", () => speak(button.dataset.language));

  // ---- the browser of questions
  const form = byId("filters");
  if (!form) return;
  const data = JSON.parse(byId("data").textContent);
  const [chooseSet, chooseOther, chooseSubject, chooseVerdict, search] = ["set", "other", "subject", "verdict", "search"].map(byId);
  let page = 0;

  // an answer: [letter or null, 1 if right, five shares, what was written, letters over all orders]
  const VERDICTS = {
    all: ["all", "모두", () => true],
    right: ["right", "맞은 것", (now) => now[1]],
    wrong: ["wrong", "틀린 것", (now) => !now[1]],
    unreadable: ["unreadable answers", "읽지 못한 답", (now) => now[0] === null],
    gained: ["wrong → right", "틀림 → 맞음", (now, was) => was && now[1] && !was[1]],
    lost: ["right → wrong", "맞음 → 틀림", (now, was) => was && !now[1] && was[1]],
  };
  const nameOf = (set) => set.name.map((name) => `${set.split}: ${name}`);
  const subjectOf = (name) => data.subjects[name] ?? [name, name];
  const current = () => data.sets[chooseSet.value];
  const other = () => (chooseOther.value === "" ? null : data.sets[chooseOther.value]);

  // listed: [value, english, korean]; the chosen one stays where it still is one
  function refill(select, listed, value = select.value) {
    select.replaceChildren(...listed.map(([key, english, korean]) => element("option", { value: key, "data-en": english, "data-ko": korean }, root.lang === "ko" ? korean : english)));
    select.value = listed.some(([key]) => key === value) ? value : listed[0][0];
  }

  function refillOthers() {
    const at = Number(chooseSet.value);
    const same = data.sets.map((set, i) => [String(i), ...nameOf(set)]).filter(([i]) => data.sets[i].split === current().split && Number(i) !== at);
    // the nearest earlier model is what one wants to see flip
    refill(chooseOther, [["", "none", "없음"], ...same], same.find(([i]) => Number(i) < at)?.[0] ?? "");
    const subjects = [...new Set(data.splits[current().split].map((question) => question[1]))].sort();
    refill(chooseSubject, [["", "all", "모두"], ...subjects.map((name) => [`=${name}`, ...subjectOf(name)])]);
  }

  function matches() {
    const { split, answers } = current();
    const before = other()?.answers;
    const passes = VERDICTS[chooseVerdict.value][2];
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    return data.splits[split].flatMap(([text, subject, , options], i) => {
      if (!answers[i] || !passes(answers[i], before?.[i]) || (chooseSubject.value && `=${subject}` !== chooseSubject.value)) return [];
      const searched = words.length ? [text, ...(options ?? [])].join("\n").toLowerCase() : "";
      return words.every((word) => searched.includes(word)) ? [i] : [];
    });
  }

  function draw() {
    const found = matches();
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(page, pages - 1);
    const right = found.filter((i) => current().answers[i][1]).length;
    const [n, of, r] = [found.length, current().answers.filter(Boolean).length, right].map((value) => value.toLocaleString("en"));
    byId("found").replaceChildren(t(`${n} of ${of} questions, ${r} of them right`, `${of}문항 가운데 ${n}문항, 그중 ${r}문항이 맞음`));
    byId("list").replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(card));
    const where = element("span", { class: "where" }, t(`page ${page + 1} of ${pages}`, `${pages}쪽 가운데 ${page + 1}쪽`));
    byId("pages").replaceChildren(turn(page - 1, page > 0, "‹ back", "‹ 앞"), where, turn(page + 1, page < pages - 1, "next ›", "뒤 ›"));
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
    const [letter, right, shares, wrote, orders] = current().answers[i];
    const was = other()?.answers[i] ?? null;
    const head = element("p", { class: "head" }, element("span", {}, `${current().split} ${i + 1}`), element("span", {}, t(...subjectOf(subject))));
    head.append(element("span", { class: right ? "verdict right" : "verdict wrong" }, right ? t("✓ right", "✓ 맞음") : t("✗ wrong", "✗ 틀림")));
    if (letter === null) head.append(element("span", {}, t("unreadable answer", "읽지 못한 답")));
    if (was && was[1] !== right) head.append(element("span", {}, right ? t("was wrong before", "이전에는 틀림") : t("was right before", "이전에는 맞음")));
    const list = element("ul", { class: "options" });
    [..."ABCDE"].forEach((name, k) => {
      const marks = [];
      if (name === expected) marks.push(t("right answer", "정답"));
      if (name === letter) marks.push(t("answered", "모델의 답"));
      if (was && name === was[0]) marks.push(t("before", "이전 답"));
      if (shares) marks.push(`${(100 * shares[k]).toFixed(1)}%`);
      if (!options && !marks.length) return;
      const mark = element("span", { class: "marks" });
      marks.forEach((told, at) => mark.append(at ? " · " : "", told));
      const line = element("li", {}, element("b", {}, name), element("span", {}, options ? options[k] : "", mark));
      line.classList.toggle("correct", name === expected);
      line.classList.toggle("chosen", name === letter);
      if (shares) line.append(element("span", { class: "share" }));
      if (shares) line.lastChild.style.width = `${100 * shares[k]}%`;
      list.append(line);
    });
    const made = element("article", { class: "question" }, head, element("p", { class: "text" }, text), list);
    if (orders) {
      const chosen = orders.map((order) => order ?? "–").join(" ");
      made.append(element("p", { class: "wrote" }, t(`chosen over the orders of the options: ${chosen}`, `선택지 순서를 바꾸어 고른 것: ${chosen}`)));
    }
    if (wrote) made.append(element("details", { class: "wrote" }, element("summary", {}, t("what the model wrote", "모델이 쓴 글")), element("blockquote", {}, wrote)));
    return made;
  }

  const again = () => ((page = 0), draw());
  chooseSet.addEventListener("change", () => (refillOthers(), again()));
  for (const select of [chooseOther, chooseSubject, chooseVerdict]) select.addEventListener("change", again);
  search.addEventListener("input", again);
  form.addEventListener("submit", (event) => event.preventDefault());
  refill(chooseSet, data.sets.map((set, i) => [String(i), ...nameOf(set)]), String(data.sets.length - 1));
  refill(chooseVerdict, Object.entries(VERDICTS).map(([key, [english, korean]]) => [key, english, korean]));
  refillOthers();
  form.hidden = false;
  draw();
})();
