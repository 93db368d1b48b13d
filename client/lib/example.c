/* Fits a line to eight points by gradient descent and lets seismod watch:
 * cc example.c $(pkg-config --cflags --libs seismo) -lm */
#include <math.h>
#include <seismo.h>
#include <stdio.h>

int main(void)
{
    const double x[] = {0, 1, 2, 3, 4, 5, 6, 7}, y[] = {1.1, 2.9, 5.2, 7.1, 8.8, 11.1, 13.0, 15.2};
    double w = 0, b = 0, lr = 0.02;
    struct seismo *run = seismo_open(&(struct seismo_options){.program = "example.c"}, NULL);

    for (int step = 0; step < 500; step++) {
        double loss = 0, gw = 0, gb = 0;
        for (int i = 0; i < 8; i++) {
            double error = w * x[i] + b - y[i];
            loss += error * error / 8, gw += 2 * error * x[i] / 8, gb += 2 * error / 8;
        }
        w -= lr * gw, b -= lr * gb;
        struct seismo_step s = seismo_at(step, loss);
        SEISMO_SET(s, lr, lr);
        SEISMO_SET(s, grad_norm, hypot(gw, gb));
        seismo_step(run, &s);
    }
    printf("y = %.3f x + %.3f\n", w, b);
    return seismo_close(&run, SEISMO_FINISHED) ? 0 : 1;
}
