#include "client/cli/database.h"

#include <stdio.h>
#include <sys/stat.h>

#include "client/cli/body.h"

static enum cli_exit too_long(void)
{
    return cli_fail(CLI_FAILED, "the path of the database is too long");
}

static enum cli_exit of_daemon(struct cli *cli, char ret_path[PATH_MAX])
{
    json_t *body;
    enum cli_exit code = cli_query(cli, "status", json_object(), &body);
    const char *path;
    struct stat st;
    int n;

    if (code != CLI_OK) {
        return code;
    }
    path = body_string(json_object_get(body, "storage"), "path");
    n = snprintf(ret_path, PATH_MAX, "%s", path);
    if (n >= PATH_MAX) {
        code = too_long();
    } else if (stat(ret_path, &st) != 0) {
        code = cli_fail(CLI_NOT_FOUND,
                        "the daemon's database %s cannot be seen from here: be on its machine, and "
                        "its user or root",
                        path);
    }
    json_decref(body);
    return code;
}

enum cli_exit database_find(struct cli *cli, const char *named, char ret_path[PATH_MAX])
{
    struct stat st;
    int n;

    if (named == NULL) {
        return of_daemon(cli, ret_path);
    }
    n = snprintf(ret_path, PATH_MAX,
                 stat(named, &st) == 0 && S_ISDIR(st.st_mode) ? "%s/seismo.db" : "%s", named);
    return n < PATH_MAX ? CLI_OK : too_long();
}

enum cli_exit database_exit(int err)
{
    switch (err) {
    case 0:
        return CLI_OK;
    case SEISMO_ENOTFOUND:
        return CLI_NOT_FOUND;
    case SEISMO_EINVAL:
        return CLI_USAGE;
    default:
        return CLI_FAILED;
    }
}
