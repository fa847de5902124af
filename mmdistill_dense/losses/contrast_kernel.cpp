// Dense contrast of student and teacher tokens (contrast.py), loss and gradient of some rows in one pass.
//
// Maps are (B, C, H, W), contiguous. A row is one token: patch * (N * M) + position * M + group. Everything of a patch
// fits a core's cache; nothing of the size of rows x candidates leaves it.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#if defined(__AVX512F__)
#define ROWS 4
#define BYTES 256
#else
#define ROWS 2
#define BYTES 128
#endif
#define DEPTH 32  // channels summed in registers before they join a sum in double precision

struct Sizes {
    long channels, height, width, groups, patch_height, patch_width, other_groups;
};

template <typename T> struct Patch {
    const Sizes &s;
    const long n, d, tokens;
    std::vector<T> rows, columns, grad, weights;  // candidates (token, d) and (d, token), gradient (token, d)
    std::vector<long> offsets;           // of each position in a channel of the map
    long origin = 0;

    explicit Patch(const Sizes &sizes)
        : s(sizes), n(s.patch_height * s.patch_width), d(s.channels / s.groups), tokens(n * s.groups), rows(tokens * d),
          columns(tokens * d), grad(tokens * d), weights(tokens), offsets(n) {
        for (long i = 0; i < n; ++i) offsets[i] = i / s.patch_width * s.width + i % s.patch_width;
    }

    void move(long index) {
        const long across = s.width / s.patch_width, down = s.height / s.patch_height;
        const long image = index / (across * down), row = index / across % down, column = index % across;
        origin = image * s.channels * s.height * s.width + row * s.patch_height * s.width + column * s.patch_width;
    }

    void read(const T *map) {
        for (long c = 0; c < s.channels; ++c) {
            const T *from = map + origin + c * s.height * s.width;
            const long group = c / d, k = c % d;
            for (long i = 0; i < n; ++i) {
                const T value = from[offsets[i]];
                rows[(i * s.groups + group) * d + k] = value;
                columns[k * tokens + i * s.groups + group] = value;
            }
        }
    }

    void read_row(const T *map, long token, T *out) const {
        const T *from = map + origin + token % s.groups * d * s.height * s.width + offsets[token / s.groups];
        for (long k = 0; k < d; ++k) out[k] = from[k * s.height * s.width];
    }

    void write_row(T *map, long token) const {
        T *to = map + origin + token % s.groups * d * s.height * s.width + offsets[token / s.groups];
        for (long k = 0; k < d; ++k) to[k * s.height * s.width] = grad[token * d + k];
    }
};

// L1 distances of `count` tokens, (count, d), to all candidates: (ROWS, tokens)
template <typename T> void distances(const Patch<T> &patch, const T *x, long count, double *out) {
    constexpr long WIDE = BYTES / sizeof(T);
    const long tokens = patch.tokens, d = patch.d, whole = tokens / WIDE * WIDE;
    std::fill(out, out + ROWS * tokens, 0.0);
    for (long begin = 0; begin < d; begin += DEPTH) {
        const long end = std::min(d, begin + DEPTH);
        for (long j = 0; j < whole; j += WIDE) {
            T sums[ROWS][WIDE] = {};
            for (long k = begin; k < end; ++k) {
                const T *y = &patch.columns[k * tokens + j];
                for (long r = 0; r < ROWS; ++r)
                    for (long v = 0; v < WIDE; ++v) sums[r][v] += std::fabs(x[r * d + k] - y[v]);
            }
            for (long r = 0; r < ROWS; ++r)
                for (long v = 0; v < WIDE; ++v) out[r * tokens + j + v] += sums[r][v];
        }
        for (long r = 0; r < count; ++r)
            for (long j = whole; j < tokens; ++j) {
                T sum = 0;
                for (long k = begin; k < end; ++k) sum += std::fabs(x[r * d + k] - patch.columns[k * tokens + j]);
                out[r * tokens + j] += sum;
            }
    }
}

// Turns the distances of one token into softmax weights; returns its loss
template <typename T> double weigh(const Patch<T> &patch, long token, double temperature, double *z) {
    const long tokens = patch.tokens, groups = patch.s.groups;
    for (long j = 0; j < tokens; ++j) z[j] *= -1 / temperature;
    const double positive = z[token];
    if (patch.s.other_groups) {
        for (long j = token % groups; j < tokens; j += groups) z[j] = -std::numeric_limits<double>::infinity();
        z[token] = positive;
    }
    double largest = z[0], sum = 0;
    for (long j = 1; j < tokens; ++j) largest = z[j] > largest ? z[j] : largest;
    const double lowest = std::log(std::numeric_limits<T>::min());  // taken as 0 below it; NaN is not below
    for (long j = 0; j < tokens; ++j) {
        z[j] = z[j] - largest < lowest ? 0.0 : double(std::exp(T(z[j] - largest)));
        sum += z[j];
    }
    for (long j = 0; j < tokens; ++j) z[j] /= sum;
    return largest - positive + std::log(sum);
}

// grad = -1 / temperature * sum_j (z_j - [j = token]) sign(x - y_j), weights lost in the rounding left out
template <typename T> void pull(Patch<T> &patch, long token, const T *x, double temperature, double *z) {
    const T lost = std::numeric_limits<T>::epsilon() / 2048;
    T *grad = &patch.grad[token * patch.d], *weights = patch.weights.data();
    z[token] -= 1;
    long alive = 0;
    for (long j = 0; j < patch.tokens; ++j) {
        alive += !(std::fabs(z[j]) < lost);
        weights[j] = T(-z[j] / temperature);
    }
    if (alive * 8 > patch.tokens) {
        for (long k = 0; k < patch.d; ++k) {
            const T value = x[k], *y = &patch.columns[k * patch.tokens];
            T sum = 0;
#pragma omp simd reduction(+ : sum)
            for (long j = 0; j < patch.tokens; ++j) sum += weights[j] * (T(value > y[j]) - T(value < y[j]));
            grad[k] = sum;
        }
        return;
    }
    std::fill(grad, grad + patch.d, T(0));
    for (long j = 0; j < patch.tokens; ++j) {
        if (std::fabs(z[j]) < lost) continue;
        const T weight = weights[j], *y = &patch.rows[j * patch.d];
        for (long k = 0; k < patch.d; ++k) grad[k] += weight * (T(x[k] > y[k]) - T(x[k] < y[k]));
    }
}

template <typename T>
void contrast(const T *student, const T *teacher, const Sizes &sizes, double temperature, long begin, long end, double *loss,
              T *grad) {
    Patch<T> patch(sizes);
    std::vector<T> x(ROWS * patch.d);
    std::vector<double> z(ROWS * patch.tokens);  // reaches 1e4, and its differences count
    for (long row = begin; row < end;) {
        const long index = row / patch.tokens, first = row % patch.tokens;
        const long last = std::min(patch.tokens, first + end - row);
        patch.move(index);
        patch.read(teacher);
        for (long token = first; token < last; token += ROWS) {
            const long count = std::min<long>(ROWS, last - token);
            for (long r = 0; r < count; ++r) patch.read_row(student, token + r, &x[r * patch.d]);
            distances(patch, x.data(), count, z.data());
            for (long r = 0; r < count; ++r) {
                double *weights = &z[r * patch.tokens];
                loss[row + token - first + r] = weigh(patch, token + r, temperature, weights);
                if (grad) pull(patch, token + r, &x[r * patch.d], temperature, weights);
            }
        }
        if (grad)
            for (long token = first; token < last; ++token) patch.write_row(grad, token);
        row += last - first;
    }
}

extern "C" void contrast_float32(const float *student, const float *teacher, const Sizes *sizes, double temperature,
                                 long begin, long end, double *loss, float *grad) {
    contrast<float>(student, teacher, *sizes, temperature, begin, end, loss, grad);
}

extern "C" void contrast_float64(const double *student, const double *teacher, const Sizes *sizes, double temperature,
                                 long begin, long end, double *loss, double *grad) {
    contrast<double>(student, teacher, *sizes, temperature, begin, end, loss, grad);
}
