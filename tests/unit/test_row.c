/* The list of fields and the list of errors, as C sees them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "proto/err.h"
#include "proto/row.h"

static void test_fields(void **state)
{
    (void)state;
    assert_string_equal(seismo_field_name(SEISMO_FIELD_STEP), "step");
    assert_string_equal(seismo_field_name(SEISMO_FIELD_TIME), "time");
    assert_string_equal(seismo_field_name(SEISMO_FIELD_VALUE0 + SEISMO_LOSS), "loss");
    assert_string_equal(seismo_field_name(SEISMO_FIELD_VALUE0 + SEISMO_VAL_ACC), "val_acc");
    assert_null(seismo_field_name(-1));
    assert_null(seismo_field_name(SEISMO_N_FIELDS));
    for (int i = 0; i < SEISMO_N_FIELDS; i++) {
        const char *name = seismo_field_name(i);
        assert_int_equal(seismo_field_find(name, (uint32_t)strlen(name)), i);
        assert_int_equal(seismo_field_find(name, (uint32_t)strlen(name) - 1), -1);
    }
    assert_int_equal(seismo_field_find("", 0), -1);
    assert_int_equal(seismo_field_find("los", 3), -1);
}

static void test_presence(void **state)
{
    (void)state;
    struct seismo_row row = {0};
    row_set(&row, SEISMO_VAL_ACC, 0.1);
    for (unsigned i = 0; i < SEISMO_N_VALUES; i++)
        assert_int_equal(row_has(&row, (enum seismo_value)i), i == SEISMO_VAL_ACC);
    assert_true(row.value[SEISMO_VAL_ACC] == 0.1f);
}

static void test_errors(void **state)
{
    (void)state;
#define X(constant, value, name, text)                   \
    assert_string_equal(seismo_errname(constant), name); \
    assert_string_equal(seismo_strerror(constant), text);
    SEISMO_ERR_MAP(X)
#undef X
    assert_string_equal(seismo_errname(0), "ok");
    assert_string_equal(seismo_errname(-1000), "unknown");
    assert_string_equal(seismo_strerror(0), "success");
    assert_string_equal(seismo_strerror(17), "unknown error");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_presence),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
