"use strict";

const key = sessionStorage.getItem("key"); // entered on the page for people, if the service asks for one
const headers = key ? { authorization: `Bearer ${key}` } : {};

fetch("docs.json", { headers }).then(async (response) => {
  if (!response.ok) {
    const message = "This service asks for an API key: enter it on <a href='.'>its page</a>, judge a review, and come back.";
    document.getElementById("api").innerHTML = `<p>${message}</p>`;
    return;
  }
  SwaggerUIBundle({
    spec: await response.json(),
    dom_id: "#api",
    validatorUrl: null,
    requestInterceptor: (request) => Object.assign(request, { headers: { ...request.headers, ...headers } }),
  });
});
