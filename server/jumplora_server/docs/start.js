// Shows this server's own document. A file, because the page's policy allows no script inside it.

SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  validatorUrl: "none", // the default asks a server on the internet
});
