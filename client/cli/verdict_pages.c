#include "client/cli/verdict_pages.h"

#include "client/cli/body.h"

enum cli_exit verdict_pages_next(struct cli *cli, const char *run, bool superseded,
                                 json_int_t *after, json_t **ret_body)
{
    json_t *params = json_pack("{s:s*, s:I}", "run", run, "after", *after);
    enum cli_exit code;

    if (superseded) {
        json_object_set_new(params, "superseded", json_true());
    }
    code = cli_query(cli, "verdicts", params, ret_body);
    if (code == CLI_OK) {
        *after = body_integer(*ret_body, "last", *after);
    }
    return code;
}

enum cli_exit verdict_pages_all(struct cli *cli, const char *run, bool superseded,
                                json_t **ret_body)
{
    json_t *whole = NULL, *body;
    json_int_t after = 0;
    bool more = true;

    while (more) {
        enum cli_exit code = verdict_pages_next(cli, run, superseded, &after, &body);

        if (code != CLI_OK) {
            json_decref(whole);
            return code;
        }
        more = json_is_true(json_object_get(body, "more"));
        if (whole == NULL) {
            whole = body;
        } else {
            json_array_extend(json_object_get(whole, "verdicts"),
                              json_object_get(body, "verdicts"));
            json_decref(body);
        }
    }
    json_object_set_new(whole, "last", json_integer(after));
    json_object_set_new(whole, "more", json_false());
    *ret_body = whole;
    return CLI_OK;
}
