/* What TensorRT 8.4's own ONNX parser makes of a file, written down by a network definition of ours.

   The parser needs no GPU, the builder that would give it a network does.  So it is given one that
   only remembers: each class of TensorRT 8 that the parser calls is a table of functions here, by
   the number that the function has there (see INetworkDefinition and its layers in NVIDIA's public
   headers).  A function that no file of ours needed ends the process, and says its class and
   number.  Shapes are computed here, as the parser asks for them.

   Reads the path of a file a line, answers with the network as JSON a line, in the words of
   bindings_worker.py. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_DIMENSIONS = 8, MOST_INPUTS = 8, MOST_LAYERS = 16384, MOST_NAME = 512, SLOTS = 80 };

typedef struct { int32_t count, size[MOST_DIMENSIONS]; } Dims;
typedef struct { int32_t type; const void *values; int64_t count; } Weights;
typedef struct { int32_t order[MOST_DIMENSIONS]; } Permutation;
typedef void *Slots[SLOTS];

enum { FLOAT, HALF, INT8, INT32, BOOL };
static const char *const TYPES[] = {"FLOAT", "HALF", "INT8", "INT32", "BOOL"};
enum { CLIP = 8, AVERAGE_POOL = 1, ROUND_UP = 1 };
static const char *const ACTIVATIONS[] = {
    "RELU", "SIGMOID", "TANH", "LEAKY_RELU", "ELU", "SELU", "SOFTSIGN", "SOFTPLUS", "CLIP",
    "HARD_SIGMOID", "SCALED_TANH", "THRESHOLDED_RELU"};
static const char *const ELEMENTWISE[] = {
    "SUM", "PROD", "MAX", "MIN", "SUB", "DIV", "POW", "FLOOR_DIV", "AND", "OR", "XOR", "EQUAL",
    "GREATER", "LESS"};
static const char *const REDUCTIONS[] = {"SUM", "PROD", "MAX", "MIN", "AVG"};
static const char *const POOLS[] = {"MAX", "AVERAGE", "MAX_AVERAGE_BLEND"};
static const char *const MATRICES[] = {"NONE", "TRANSPOSE", "VECTOR"};

typedef enum {
    CONVOLUTION, FULLY_CONNECTED, ACTIVATION, POOLING, ELEMENT_WISE, SHUFFLE, REDUCE,
    MATRIX_MULTIPLY, CONSTANT, QUANTIZE, DEQUANTIZE, IDENTITY, KINDS
} Kind;
static const char *const KIND_NAMES[] = {
    "CONVOLUTION", "FULLY_CONNECTED", "ACTIVATION", "POOLING", "ELEMENTWISE", "SHUFFLE", "REDUCE",
    "MATRIX_MULTIPLY", "CONSTANT", "QUANTIZE", "DEQUANTIZE", "IDENTITY"};

struct layer;

/* An object of TensorRT's is a table of its own functions and a pointer to what does the work. */
typedef struct {
    const void *outer, *work, *slots;
    char name[MOST_NAME];
    Dims dims;
    int32_t type;
    struct layer *maker; /* none for an input */
} Tensor;

typedef struct layer {
    const void *outer, *base, *work, *base_slots, *slots;
    Kind kind;
    char name[MOST_NAME];
    int32_t input_count;
    Tensor *inputs[MOST_INPUTS];
    Tensor output;
    int32_t function, maps, groups, axis, axes, keep, mode, excludes_padding, first, second;
    float alpha, beta;
    Dims window, stride, dilation, before, after, reshape;
    Permutation first_transpose, second_transpose;
    int transposes;
    Weights kernel, bias;
} Layer;

static struct { const void *outer, *work, *slots; } network;
static Layer *layers[MOST_LAYERS];
static Tensor *inputs[MOST_INPUTS], *outputs[MOST_INPUTS];
static int32_t layer_count, input_count, output_count;

static Slots network_slots, tensor_slots, layer_slots, kind_slots[KINDS], outer_slots;

#define TENSOR(self) ((Tensor *)((char *)(self) - offsetof(Tensor, slots)))
#define BASE(self) ((Layer *)((char *)(self) - offsetof(Layer, base_slots)))
#define LAYER(self) ((Layer *)((char *)(self) - offsetof(Layer, slots)))

/* ---- functions that nothing needed so far ---- */

static const char *class_of(const void *self) {
    const void *table = *(const void *const *)self;
    if (table == network_slots) return "the network";
    if (table == tensor_slots) return "a tensor";
    if (table == layer_slots) return "a layer";
    for (int kind = 0; kind < KINDS; kind++)
        if (table == kind_slots[kind]) return KIND_NAMES[kind];
    return NULL;
}

static void unknown(int slot, const void *first, const void *second) {
    /* A function that returns a large value has the address for it as its first argument. */
    const char *name = class_of(first);
    if (!name) name = class_of(second);
    fprintf(stderr, "the parser called function %d of %s, which is not recorded\n", slot,
            name ? name : "an object");
    exit(70);
}

#define UNKNOWN(n) static void unknown_##n(void *a, void *b) { unknown(n, a, b); }
#define TEN(m, d) m(d##0) m(d##1) m(d##2) m(d##3) m(d##4) m(d##5) m(d##6) m(d##7) m(d##8) m(d##9)
UNKNOWN(0) UNKNOWN(1) UNKNOWN(2) UNKNOWN(3) UNKNOWN(4)
UNKNOWN(5) UNKNOWN(6) UNKNOWN(7) UNKNOWN(8) UNKNOWN(9)
TEN(UNKNOWN, 1) TEN(UNKNOWN, 2) TEN(UNKNOWN, 3) TEN(UNKNOWN, 4)
TEN(UNKNOWN, 5) TEN(UNKNOWN, 6) TEN(UNKNOWN, 7)
#define ADDRESS(n) (void *)unknown_##n,
static const Slots UNKNOWNS = {
    ADDRESS(0) ADDRESS(1) ADDRESS(2) ADDRESS(3) ADDRESS(4)
    ADDRESS(5) ADDRESS(6) ADDRESS(7) ADDRESS(8) ADDRESS(9)
    TEN(ADDRESS, 1) TEN(ADDRESS, 2) TEN(ADDRESS, 3) TEN(ADDRESS, 4)
    TEN(ADDRESS, 5) TEN(ADDRESS, 6) TEN(ADDRESS, 7)};

/* ---- shapes ---- */

static int32_t window_count(int32_t size, int32_t window, int32_t stride, int32_t pads, int up) {
    int32_t room = size + pads - window;
    return (up ? (room + stride - 1) / stride : room / stride) + 1;
}

static int64_t volume(const Dims *dims) {
    int64_t found = 1;
    for (int at = 0; at < dims->count; at++) found *= dims->size[at];
    return found;
}

static Dims shape(Tensor *tensor);

static Dims broadcast(Dims one, Dims other) {
    Dims made = one;
    for (int at = 0; at < one.count; at++)
        if (other.size[at] > made.size[at]) made.size[at] = other.size[at];
    return made;
}

static Dims windows(const Layer *layer, Dims made) {
    for (int at = 0; at < layer->window.count; at++) {
        int32_t wide = layer->dilation.size[at] * (layer->window.size[at] - 1) + 1;
        made.size[2 + at] =
            window_count(made.size[2 + at], wide, layer->stride.size[at],
                         layer->before.size[at] + layer->after.size[at], layer->mode == ROUND_UP);
    }
    return made;
}

static Dims reshaped(const Layer *layer, Dims given) {
    Dims source = given, made;
    if (layer->transposes & 1)
        for (int at = 0; at < given.count; at++)
            source.size[at] = given.size[layer->first_transpose.order[at]];
    made = layer->reshape.count < 0 ? source : layer->reshape;
    int open = -1;
    int64_t known = 1;
    for (int at = 0; at < made.count; at++) {
        if (made.size[at] == 0) made.size[at] = source.size[at];
        if (made.size[at] < 0) open = at;
        else known *= made.size[at];
    }
    if (open >= 0) made.size[open] = (int32_t)(volume(&source) / known);
    source = made;
    if (layer->transposes & 2)
        for (int at = 0; at < made.count; at++)
            made.size[at] = source.size[layer->second_transpose.order[at]];
    return made;
}

static Dims reduced(const Layer *layer, Dims source) {
    Dims made = {0, {0}};
    for (int at = 0; at < source.count; at++) {
        if (!(layer->axes >> at & 1)) made.size[made.count++] = source.size[at];
        else if (layer->keep) made.size[made.count++] = 1;
    }
    return made;
}

static Dims product(const Layer *layer, Dims one, Dims other) {
    int rows = one.count - 2, columns = other.count - 1;
    Dims made = broadcast(one, other);
    made.size[rows] = one.size[rows + (layer->first == 1)];
    made.size[rows + 1] = other.size[columns - (layer->second == 1)];
    return made;
}

static Dims shape(Tensor *tensor) {
    Layer *layer = tensor->maker;
    if (!layer || layer->kind == CONSTANT) return tensor->dims;
    Dims source = shape(layer->inputs[0]);
    switch (layer->kind) {
    case CONVOLUTION:
        source = windows(layer, source);
        source.size[1] = layer->maps;
        return source;
    case POOLING: return windows(layer, source);
    case ELEMENT_WISE: return broadcast(source, shape(layer->inputs[1]));
    case SHUFFLE: return reshaped(layer, source);
    case REDUCE: return reduced(layer, source);
    case MATRIX_MULTIPLY: return product(layer, source, shape(layer->inputs[1]));
    case FULLY_CONNECTED:
        source.size[source.count - 3] = layer->maps;
        source.size[source.count - 2] = source.size[source.count - 1] = 1;
        return source;
    default: return source;
    }
}

static int32_t type_of(const Tensor *tensor) {
    if (tensor->type >= 0) return tensor->type;
    switch (tensor->maker->kind) {
    case QUANTIZE: return INT8;
    case DEQUANTIZE: return FLOAT;
    default: return type_of(tensor->maker->inputs[0]);
    }
}

/* ---- tensors ---- */

static void set_text(char *place, const char *text) { snprintf(place, MOST_NAME, "%s", text); }
static void tensor_set_name(void *self, const char *name) { set_text(TENSOR(self)->name, name); }
static const char *tensor_name(void *self) { return TENSOR(self)->name; }
static Dims tensor_dims(void *self) { return shape(TENSOR(self)); }
static void tensor_set_type(void *self, int32_t type) { TENSOR(self)->type = type; }
static int32_t tensor_type(void *self) { return type_of(TENSOR(self)); }
static _Bool tensor_is_input(void *self) { return !TENSOR(self)->maker; }
static _Bool no(void *self) { (void)self; return 0; }
static _Bool yes(void *self) { (void)self; return 1; }
static void ignored(void *self) { (void)self; }

static void make_tensor(Tensor *tensor, Layer *maker) {
    tensor->outer = outer_slots;
    tensor->work = &tensor->slots;
    tensor->slots = tensor_slots;
    tensor->maker = maker;
    tensor->type = -1;
}

/* ---- layers ---- */

static int32_t layer_kind(void *self) { return BASE(self)->kind; }
static void layer_set_name(void *self, const char *name) { set_text(BASE(self)->name, name); }
static const char *layer_name(void *self) { return BASE(self)->name; }
static int32_t layer_inputs(void *self) { return BASE(self)->input_count; }
static void *layer_input(void *self, int32_t at) { return BASE(self)->inputs[at]; }
static int32_t one_output(void *self) { (void)self; return 1; }
static void *layer_output(void *self, int32_t at) { (void)at; return &BASE(self)->output; }
static void layer_set_output_type(void *self, int32_t at, int32_t type) {
    (void)at;
    BASE(self)->output.type = type;
}
static void layer_set_input(void *self, int32_t at, Tensor *tensor) {
    Layer *layer = BASE(self);
    layer->inputs[at] = tensor;
    if (at >= layer->input_count) layer->input_count = at + 1;
}

static const Dims ONES = {2, {1, 1}}, ZEROS = {2, {0, 0}};

static Layer *add(Kind kind, Tensor *input) {
    Layer *layer = calloc(1, sizeof *layer);
    layer->outer = outer_slots;
    layer->base = &layer->base_slots;
    layer->base_slots = layer_slots;
    layer->work = &layer->slots;
    layer->slots = kind_slots[kind];
    layer->kind = kind;
    layer->input_count = input != NULL;
    layer->inputs[0] = input;
    layer->stride = layer->dilation = ONES;
    layer->before = layer->after = ZEROS;
    layer->groups = 1;
    layer->excludes_padding = 1;
    layer->reshape.count = -1;
    layer->axis = -1;
    make_tensor(&layer->output, layer);
    snprintf(layer->output.name, MOST_NAME, "(layer %d)_output", layer_count);
    if (layer_count == MOST_LAYERS) abort();
    layers[layer_count++] = layer;
    return layer;
}

#define SETTER(name, type, field) static void name(void *self, type value) { LAYER(self)->field = value; }
#define GETTER(name, type, field) static type name(void *self) { return LAYER(self)->field; }
SETTER(set_function, int32_t, function)
SETTER(set_maps, int32_t, maps)
GETTER(get_maps, int32_t, maps)
SETTER(set_groups, int32_t, groups)
SETTER(set_kernel, Weights, kernel)
SETTER(set_bias, Weights, bias)
SETTER(set_window, Dims, window)
GETTER(get_window, Dims, window)
SETTER(set_stride, Dims, stride)
SETTER(set_dilation, Dims, dilation)
SETTER(set_before, Dims, before)
SETTER(set_after, Dims, after)
SETTER(set_mode, int32_t, mode)
SETTER(set_excludes, _Bool, excludes_padding)
SETTER(set_alpha, float, alpha)
SETTER(set_beta, float, beta)
SETTER(set_axes, uint32_t, axes)
SETTER(set_keep, _Bool, keep)
SETTER(set_axis, int32_t, axis)
SETTER(set_reshape, Dims, reshape)
static void set_pads(void *self, Dims pads) { LAYER(self)->before = LAYER(self)->after = pads; }
static void set_first_transpose(void *self, const Permutation *order) {
    LAYER(self)->first_transpose = *order;
    LAYER(self)->transposes |= 1;
}
static void set_second_transpose(void *self, const Permutation *order) {
    LAYER(self)->second_transpose = *order;
    LAYER(self)->transposes |= 2;
}
static void set_flag(void *self, _Bool value) { (void)self; (void)value; }

/* ---- the network ---- */

static void *add_input(void *self, const char *name, int32_t type, Dims dims) {
    (void)self;
    Tensor *tensor = calloc(1, sizeof *tensor);
    make_tensor(tensor, NULL);
    set_text(tensor->name, name);
    tensor->type = type;
    tensor->dims = dims;
    return inputs[input_count++] = tensor;
}
static void mark_output(void *self, Tensor *tensor) { (void)self; outputs[output_count++] = tensor; }
static void unmark_output(void *self, Tensor *tensor) {
    (void)self;
    for (int at = 0; at < output_count; at++)
        if (outputs[at] == tensor) outputs[at] = outputs[--output_count];
}
static void *add_convolution(void *self, Tensor *input, int32_t maps, Dims window, Weights kernel,
                             Weights bias) {
    (void)self;
    Layer *layer = add(CONVOLUTION, input);
    layer->maps = maps;
    layer->window = window;
    layer->kernel = kernel;
    layer->bias = bias;
    return layer;
}
static void *add_fully_connected(void *self, Tensor *input, int32_t maps, Weights kernel,
                                 Weights bias) {
    (void)self;
    Layer *layer = add(FULLY_CONNECTED, input);
    layer->maps = maps;
    layer->kernel = kernel;
    layer->bias = bias;
    return layer;
}
static void *add_activation(void *self, Tensor *input, int32_t function) {
    (void)self;
    Layer *layer = add(ACTIVATION, input);
    layer->function = function;
    return layer;
}
static void *add_pooling(void *self, Tensor *input, int32_t function, Dims window) {
    (void)self;
    Layer *layer = add(POOLING, input);
    layer->function = function;
    layer->window = window;
    return layer;
}
static void *add_two(Kind kind, Tensor *one, Tensor *other) {
    Layer *layer = add(kind, one);
    layer->input_count = 2;
    layer->inputs[1] = other;
    return layer;
}
static void *add_elementwise(void *self, Tensor *one, Tensor *other, int32_t function) {
    (void)self;
    Layer *layer = add_two(ELEMENT_WISE, one, other);
    layer->function = function;
    return layer;
}
static void *add_shuffle(void *self, Tensor *input) { (void)self; return add(SHUFFLE, input); }
static void *add_identity(void *self, Tensor *input) { (void)self; return add(IDENTITY, input); }
static void *add_reduce(void *self, Tensor *input, int32_t function, uint32_t axes, _Bool keep) {
    (void)self;
    Layer *layer = add(REDUCE, input);
    layer->function = function;
    layer->axes = (int32_t)axes;
    layer->keep = keep;
    return layer;
}
static void *add_product(void *self, Tensor *one, int32_t first, Tensor *other, int32_t second) {
    (void)self;
    Layer *layer = add_two(MATRIX_MULTIPLY, one, other);
    layer->first = first;
    layer->second = second;
    return layer;
}
static void *add_constant(void *self, Dims dims, Weights values) {
    (void)self;
    Layer *layer = add(CONSTANT, NULL);
    layer->output.dims = dims;
    layer->output.type = values.type;
    layer->kernel = values;
    return layer;
}
static void *add_quantize(void *self, Tensor *input, Tensor *scale) {
    (void)self;
    return add_two(QUANTIZE, input, scale);
}
static void *add_dequantize(void *self, Tensor *input, Tensor *scale) {
    (void)self;
    return add_two(DEQUANTIZE, input, scale);
}
static int32_t count_layers(void *self) { (void)self; return layer_count; }
static void *get_layer(void *self, int32_t at) { (void)self; return layers[at]; }
static int32_t count_inputs(void *self) { (void)self; return input_count; }
static void *get_input(void *self, int32_t at) { (void)self; return inputs[at]; }
static int32_t count_outputs(void *self) { (void)self; return output_count; }
static void *get_output(void *self, int32_t at) { (void)self; return outputs[at]; }
static _Bool name_weights(void *self, Weights weights, const char *name) {
    (void)self; (void)weights; (void)name;
    return 1;
}
static void *nothing(void *self) { (void)self; return NULL; }

#define IS(table, slot, function) table[slot] = (void *)(function)

static void fill_tables(void) {
    memcpy(network_slots, UNKNOWNS, sizeof UNKNOWNS);
    memcpy(tensor_slots, UNKNOWNS, sizeof UNKNOWNS);
    memcpy(layer_slots, UNKNOWNS, sizeof UNKNOWNS);
    memcpy(outer_slots, UNKNOWNS, sizeof UNKNOWNS);
    for (int kind = 0; kind < KINDS; kind++) memcpy(kind_slots[kind], UNKNOWNS, sizeof UNKNOWNS);

    /* Numbers 0 and 1 are the destructor's. */
    IS(tensor_slots, 2, tensor_set_name);
    IS(tensor_slots, 3, tensor_name);
    IS(tensor_slots, 5, tensor_dims);
    IS(tensor_slots, 6, tensor_set_type);
    IS(tensor_slots, 7, tensor_type);
    IS(tensor_slots, 9, tensor_is_input);
    IS(tensor_slots, 21, no);  /* isShapeTensor */
    IS(tensor_slots, 22, yes); /* isExecutionTensor */

    IS(layer_slots, 2, layer_kind);
    IS(layer_slots, 3, layer_set_name);
    IS(layer_slots, 4, layer_name);
    IS(layer_slots, 5, layer_inputs);
    IS(layer_slots, 6, layer_input);
    IS(layer_slots, 7, one_output);
    IS(layer_slots, 8, layer_output);
    IS(layer_slots, 9, layer_set_input);
    IS(layer_slots, 14, layer_set_output_type);

    void **table = kind_slots[CONVOLUTION];
    IS(table, 4, set_maps);
    IS(table, 5, get_maps);
    IS(table, 10, set_groups);
    IS(table, 12, set_kernel);
    IS(table, 14, set_bias);
    IS(table, 18, set_before);
    IS(table, 20, set_after);
    IS(table, 22, set_mode);
    IS(table, 24, set_window);
    IS(table, 25, get_window);
    IS(table, 26, set_stride);
    IS(table, 28, set_pads);
    IS(table, 30, set_dilation);

    table = kind_slots[ACTIVATION];
    IS(table, 2, set_function);
    IS(table, 4, set_alpha);
    IS(table, 5, set_beta);

    table = kind_slots[POOLING];
    IS(table, 2, set_function);
    IS(table, 12, set_excludes);
    IS(table, 14, set_before);
    IS(table, 16, set_after);
    IS(table, 18, set_mode);
    IS(table, 20, set_window);
    IS(table, 22, set_stride);
    IS(table, 24, set_pads);

    IS(kind_slots[ELEMENT_WISE], 2, set_function);
    IS(kind_slots[REDUCE], 2, set_function);
    IS(kind_slots[REDUCE], 4, set_axes);
    IS(kind_slots[REDUCE], 6, set_keep);
    IS(kind_slots[SHUFFLE], 2, set_first_transpose);
    IS(kind_slots[SHUFFLE], 4, set_reshape);
    IS(kind_slots[SHUFFLE], 6, set_second_transpose);
    IS(kind_slots[SHUFFLE], 8, set_flag); /* setZeroIsPlaceholder */
    IS(kind_slots[QUANTIZE], 3, set_axis);
    IS(kind_slots[DEQUANTIZE], 3, set_axis);

    IS(network_slots, 2, add_input);
    IS(network_slots, 3, mark_output);
    IS(network_slots, 5, add_fully_connected);
    IS(network_slots, 6, add_activation);
    IS(network_slots, 13, add_elementwise);
    IS(network_slots, 16, add_shuffle);
    IS(network_slots, 17, count_layers);
    IS(network_slots, 18, get_layer);
    IS(network_slots, 19, count_inputs);
    IS(network_slots, 20, get_input);
    IS(network_slots, 21, count_outputs);
    IS(network_slots, 22, get_output);
    IS(network_slots, 23, add_reduce);
    IS(network_slots, 27, add_product);
    IS(network_slots, 28, add_constant);
    IS(network_slots, 30, add_identity);
    IS(network_slots, 32, unmark_output);
    IS(network_slots, 35, ignored); /* setName */
    IS(network_slots, 38, no);      /* hasImplicitBatchDimension */
    IS(network_slots, 42, add_convolution);
    IS(network_slots, 43, add_pooling);
    IS(network_slots, 47, no); /* hasExplicitPrecision */
    IS(network_slots, 52, name_weights);
    IS(network_slots, 53, ignored); /* setErrorRecorder */
    IS(network_slots, 54, nothing); /* getErrorRecorder */
    IS(network_slots, 55, add_dequantize);
    IS(network_slots, 56, add_quantize);
}

/* ---- what was understood, as JSON ---- */

static void write_text(const char *text) {
    putchar('"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') putchar('\\');
        if ((unsigned char)*text < ' ') printf("\\u%04x", *text);
        else putchar(*text);
    }
    putchar('"');
}
static void write_dims(const char *name, Dims dims) {
    printf(", \"%s\": [", name);
    for (int at = 0; at < dims.count; at++) printf("%s%d", at ? ", " : "", dims.size[at]);
    putchar(']');
}
static void write_tensor(Tensor *tensor) {
    printf("{\"name\": ");
    write_text(tensor->name);
    write_dims("shape", shape(tensor));
    printf(", \"type\": \"%s\"}", TYPES[type_of(tensor)]);
}
static void write_tensors(const char *name, Tensor **tensors, int32_t count) {
    printf("\"%s\": [", name);
    for (int at = 0; at < count; at++) {
        if (at) printf(", ");
        write_tensor(tensors[at]);
    }
    putchar(']');
}

static void write_layer(const Layer *layer) {
    printf("{\"kind\": \"%s\", \"inputs\": [", KIND_NAMES[layer->kind]);
    for (int at = 0; at < layer->input_count; at++) {
        if (at) printf(", ");
        write_text(layer->inputs[at]->name);
    }
    printf("], \"outputs\": [");
    write_tensor((Tensor *)&layer->output);
    putchar(']');
    switch (layer->kind) {
    case CONVOLUTION:
        printf(", \"num_output_maps\": %d, \"num_groups\": %d, \"kernel_count\": %lld, "
               "\"bias_count\": %lld",
               layer->maps, layer->groups, (long long)layer->kernel.count,
               (long long)layer->bias.count);
        write_dims("kernel_size_nd", layer->window);
        write_dims("dilation_nd", layer->dilation);
        break;
    case FULLY_CONNECTED:
        printf(", \"num_output_maps\": %d, \"kernel_count\": %lld, \"bias_count\": %lld",
               layer->maps, (long long)layer->kernel.count, (long long)layer->bias.count);
        break;
    case ACTIVATION:
        printf(", \"type\": \"%s\", \"alpha\": %.9g, \"beta\": %.9g", ACTIVATIONS[layer->function],
               layer->alpha, layer->beta);
        break;
    case POOLING:
        printf(", \"type\": \"%s\", \"average_count_excludes_padding\": %s", POOLS[layer->function],
               layer->excludes_padding ? "true" : "false");
        write_dims("window_size_nd", layer->window);
        break;
    case ELEMENT_WISE: printf(", \"op\": \"%s\"", ELEMENTWISE[layer->function]); break;
    case REDUCE:
        printf(", \"op\": \"%s\", \"axes\": %d, \"keep_dims\": %s", REDUCTIONS[layer->function],
               layer->axes, layer->keep ? "true" : "false");
        break;
    case MATRIX_MULTIPLY:
        printf(", \"op0\": \"%s\", \"op1\": \"%s\"", MATRICES[layer->first],
               MATRICES[layer->second]);
        break;
    case SHUFFLE:
        if (layer->reshape.count >= 0) write_dims("reshape_dims", shape((Tensor *)&layer->output));
        break;
    case QUANTIZE:
    case DEQUANTIZE: printf(", \"axis\": %d", layer->axis); break;
    default: break;
    }
    if (layer->kind == CONVOLUTION || layer->kind == POOLING) {
        write_dims("stride_nd", layer->stride);
        write_dims("pre_padding", layer->before);
        write_dims("post_padding", layer->after);
    }
    putchar('}');
}

/* ---- the parser, whose functions are called by their numbers as well ---- */

#define CALL(type, object, slot, ...) ((type)((*(void ***)(object))[slot]))(object, ##__VA_ARGS__)
typedef _Bool (*Parse)(void *, const void *, size_t, const char *);
typedef void (*Destroy)(void *);
typedef int32_t (*Count)(void *);
typedef void *(*Item)(void *, int32_t);
typedef const char *(*Text)(void *);

static void said(void *self, int32_t severity, const char *text) {
    (void)self;
    if (severity <= 1) fprintf(stderr, "TensorRT: %s\n", text);
}
static void *const logger_slots[] = {(void *)said, (void *)ignored, (void *)ignored};
static const void *logger = logger_slots;

static void answer(void *parser, const void *content, size_t size) {
    layer_count = input_count = output_count = 0;
    if (CALL(Parse, parser, 0, content, size, NULL)) {
        printf("{\"layers\": [");
        for (int at = 0; at < layer_count; at++) {
            if (at) printf(", ");
            write_layer(layers[at]);
        }
        printf("], ");
        write_tensors("inputs", inputs, input_count);
        printf(", ");
        write_tensors("outputs", outputs, output_count);
    } else {
        printf("{\"errors\": [");
        for (int at = 0, count = CALL(Count, parser, 6); at < count; at++) {
            void *error = CALL(Item, parser, 7, at);
            printf("%s{\"node\": %d, \"said\": ", at ? ", " : "", CALL(Count, error, 5));
            write_text(CALL(Text, error, 1));
            putchar('}');
        }
        putchar(']');
    }
    printf("}\n");
    fflush(stdout);
}

int main(int count, char **arguments) {
    void *library = dlopen(count > 1 ? arguments[1] : "libnvonnxparser.so.8", RTLD_NOW);
    if (!library) return fprintf(stderr, "%s\n", dlerror()), 69;
    void *(*create)(void *, void *, int) = dlsym(library, "createNvOnnxParser_INTERNAL");
    int32_t (*version)(void) = dlsym(library, "getNvOnnxParserVersion");
    if (!create) return fprintf(stderr, "%s\n", dlerror()), 69;
    fill_tables();
    network.outer = outer_slots;
    network.work = &network.slots;
    network.slots = network_slots;
    char path[4096];
    while (fgets(path, sizeof path, stdin)) {
        path[strcspn(path, "\n")] = 0;
        FILE *file = fopen(path, "rb");
        if (!file) return perror(path), 66;
        fseek(file, 0, SEEK_END);
        size_t size = (size_t)ftell(file);
        rewind(file);
        char *content = malloc(size);
        if (!content || fread(content, 1, size, file) != size) return perror(path), 66;
        fclose(file);
        void *parser = create(&network, (void *)&logger, version ? version() : 0);
        answer(parser, content, size);
        CALL(Destroy, parser, 5);
        free(content);
        for (int at = 0; at < layer_count; at++) free(layers[at]);
        for (int at = 0; at < input_count; at++) free(inputs[at]);
    }
    return 0;
}
