"""The description of our own routes for programs: OpenAPI 3.1, made of the routes themselves."""
