// The page of a run under way asks for itself again, and takes over the parts that have changed: a film that plays plays
// on. Parts are the children of [data-parts], each with an id. Without scripts the page is loaded again as a whole.
const follow = document.querySelector("#follow"), silent = document.querySelector("#silent"), sent = new Map();
let mark = "";
for (const part of document.querySelectorAll("[data-parts] > *")) sent.set(part.id, part.outerHTML);
async function renew() {
  if (!follow.checked || document.hidden) return;
  try {
    const answer = await fetch(location.pathname, { headers: { "If-None-Match": mark }, cache: "no-store" });
    silent.hidden = answer.ok || answer.status === 304;
    if (!answer.ok) return;
    mark = answer.headers.get("ETag");
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.title = page.title;
    for (const now of page.querySelectorAll("[data-parts]")) take(document.getElementById(now.id), now);
  } catch { silent.hidden = false; }
}
function take(old, now) {
  let place = old.firstElementChild;
  for (const part of [...now.children]) {
    const own = [...old.children].find(child => child.id === part.id), html = part.outerHTML;
    const same = own && sent.get(part.id) === html;
    if (own === place && place) place = place.nextElementSibling;
    else if (same) old.insertBefore(own, place);
    if (same) continue;
    old.insertBefore(part, place);
    if (own) own.remove();
    part.querySelectorAll(".table table").forEach(sortable);
    sent.set(part.id, html);
  }
  while (place) { const next = place.nextElementSibling; place.remove(); place = next; }
}
setInterval(renew, 1000 * follow.dataset.seconds);
// A film plays where its contact sheet was.
document.addEventListener("click", event => {
  const link = event.target.closest(".films a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const film = document.createElement("video");
  Object.assign(film, { src: link.href, controls: true, autoplay: true, ariaLabel: link.textContent || link.firstChild.alt });
  link.replaceWith(film);
  film.focus();
});
