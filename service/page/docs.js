"use strict";

SwaggerUIBundle({ url: "docs.json", dom_id: "#api", validatorUrl: null });
