//! The OpenAPI document, made from the handlers and the types that they take and answer.

use utoipa::{
    Modify, OpenApi,
    openapi::{
        ContentBuilder, Ref, RefOr, ResponseBuilder,
        security::{Http, HttpAuthScheme, SecurityScheme},
    },
};

use super::{
    me, messages,
    problem::{self, Problem},
    rooms,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Roomcast",
        description = "Messages, rooms and users over HTTP. What is posted here reaches sockets \
                       exactly like a message that a socket has sent.",
    ),
    servers((url = "/api/v1")),
    paths(
        messages::post_message,
        messages::list_messages,
        messages::post_direct,
        messages::list_direct,
        messages::search,
        rooms::list_rooms,
        rooms::list_members,
        me::show,
        me::change,
    ),
    security(("bearer" = [])),
    modifiers(&Shared),
)]
struct Document;

/// What no single handler says.
struct Shared;

impl Modify for Shared {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let bearer = Http::builder().scheme(HttpAuthScheme::Bearer);
        let bearer = bearer.description(Some("The token of a user, or an API key."));
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer.build()));
        let (name, schema) = Problem::schema();
        let problem = Ref::from_schema_name(&name);
        components.schemas.insert(name, schema);
        let content = ContentBuilder::new().schema(Some(problem)).build();
        let response = ResponseBuilder::new().description("Why the request was not served.");
        let response = response.content(problem::CONTENT_TYPE, content).build();
        for item in document.paths.paths.values_mut() {
            for operation in [&mut item.get, &mut item.post, &mut item.patch].into_iter().flatten()
            {
                let known = &mut operation.responses.responses;
                known.insert("default".to_owned(), RefOr::T(response.clone()));
            }
        }
    }
}

pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}
