/* A model of two trees whose scores are known by heart, for tests that must not depend on what the
 * built-in model learned: a smoothed loss 0.5 units above its first level says unstable, a gradient
 * that jumped says it a little. */
#ifndef SEISMO_TESTS_SMALL_MODEL_H
#define SEISMO_TESTS_SMALL_MODEL_H

#define SMALL_TREE(id, feature, threshold, low, high, default_left)                              \
    "{\"base_weights\":[0,0,0],\"categories\":[],\"categories_nodes\":[],"                       \
    "\"categories_segments\":[],\"categories_sizes\":[],\"default_left\":[" default_left         \
    ",0,0],\"id\":" id ",\"left_children\":[1,-1,-1],\"right_children\":[2,-1,-1],"              \
    "\"loss_changes\":[1,0,0],\"parents\":[2147483647,0,0],\"split_conditions\":[" threshold     \
    "," low "," high "],\"split_indices\":[" feature ",0,0],\"split_type\":[0,0,0],"             \
    "\"sum_hessian\":[4E0,3E0,1E0],\"tree_param\":{\"num_deleted\":\"0\",\"num_feature\":\"2\"," \
    "\"num_nodes\":\"3\",\"size_leaf_vector\":\"0\"}}"

#define SMALL_BOOSTER(objective, classes, info, n, trees)                                      \
    "{\"learner\":{\"attributes\":{},\"feature_names\":[],\"feature_types\":[],"               \
    "\"gradient_booster\":{\"model\":{\"gbtree_model_param\":{\"num_parallel_tree\":\"1\","    \
    "\"num_trees\":\"" n "\",\"size_leaf_vector\":\"0\"},\"tree_info\":[" info "],"            \
    "\"trees\":[" trees "]},\"name\":\"gbtree\"},\"learner_model_param\":{"                    \
    "\"base_score\":\"5E-1\",\"boost_from_average\":\"1\",\"num_class\":\"" classes "\","      \
    "\"num_feature\":\"2\",\"num_target\":\"1\"},\"objective\":{\"name\":\"" objective "\"}}," \
    "\"version\":[1,7,4]}"

#define SMALL_TREES                                           \
    SMALL_BOOSTER("binary:logistic", "0", "0,0", "2",         \
                  SMALL_TREE("0", "0", "5E-1", "-3E0", "3E0", \
                             "1") "," SMALL_TREE("1", "1", "1E0", "0E0", "5E-1", "0"))

/* The calibration's slope and intercept differ between heads, so that scores tell them apart. */
#define SMALL_HEAD(first, slope, lasting)                                                \
    "{" first "\"booster\":" SMALL_TREES ",\"calibration\":{\"slope\":" slope            \
    ",\"intercept\":-0.25},\"budgets\":{\"0.01\":0.9,\"0.05\":0.5},\"default_budget\":"  \
    "\"0.01\",\"warning\":0.5,\"exit\":0.2," lasting "\"confirm\":2,\"exit_confirm\":5," \
    "\"warmup\":12}"

#define SMALL_FAULT                                                     \
    "{\"booster\":" SMALL_BOOSTER(                                      \
        "multi:softprob", "2", "0,1", "2",                              \
        SMALL_TREE("0", "1", "1E0", "-1E0", "1E0", "1") "," SMALL_TREE( \
            "1", "1", "1E0", "1E0", "-1E0", "1")) ",\"classes\":[\"learning_rate\",\"data\"]}"

#define SMALL_FILE(format, name, instability)                                            \
    "{\"format\":" format ",\"name\":\"" name "\",\"created\":\"2024-06-07\",\"feature_" \
    "version\":3,\"features\":[\"loss_above_first\",\"grad_jump\"],\"heads\":{"          \
    "\"instability\":" instability ",\"fault\":" SMALL_FAULT "},\"training\":{\"runs\":0}}"

/* Format 1: one head for all runs. */
#define SMALL_MODEL(name) SMALL_FILE("1", name, SMALL_HEAD("", "1.5", ""))

/* Format 2: a head for runs with a gradient norm, which a level held for 6 rows alarms, too. */
#define SMALL_HEADS(name)                                                 \
    SMALL_FILE("2", name,                                                 \
               "[" SMALL_HEAD("\"needs\":[],", "1.5", "") "," SMALL_HEAD( \
                   "\"needs\":[\"grad_norm\"],", "0.5",                   \
                   "\"lasting\":{\"confirm\":6,\"budgets\":{\"0.01\":0.7}},") "]")

#endif
