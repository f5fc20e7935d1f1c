/* Looks at PNG files for the end-to-end scripts.
 *   picture FILE            prints "WIDTH HEIGHT"
 *   picture FILE RRGGBB     prints how many pixels have that colour, give or take a little
 *   picture FILE FILE2      prints how many pixels differ (all, if the sizes do) */
#include <png.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NEAR = 6 }; /* per channel: blending rounds */

static uint8_t *load(const char *path, int *ret_w, int *ret_h)
{
    png_image image = {.version = PNG_IMAGE_VERSION};
    if (!png_image_begin_read_from_file(&image, path)) {
        fprintf(stderr, "picture: %s: %s\n", path, image.message);
        exit(2);
    }
    image.format = PNG_FORMAT_RGB;
    uint8_t *rgb = malloc(PNG_IMAGE_SIZE(image));
    if (!rgb || !png_image_finish_read(&image, NULL, rgb, 0, NULL)) {
        fprintf(stderr, "picture: %s: %s\n", path, image.message);
        exit(2);
    }
    *ret_w = (int)image.width;
    *ret_h = (int)image.height;
    return rgb;
}

static int near(const uint8_t *a, const uint8_t *b)
{
    for (int i = 0; i < 3; i++)
        if (abs(a[i] - b[i]) > NEAR)
            return 0;
    return 1;
}

int main(int argc, char **argv)
{
    int w, h, w2, h2, n = 0;
    if (argc < 2)
        return 2;
    uint8_t *a = load(argv[1], &w, &h), *b = NULL;
    if (argc == 2) {
        printf("%d %d\n", w, h);
    } else if (strlen(argv[2]) == 6 && strspn(argv[2], "0123456789abcdefABCDEF") == 6) {
        long rgb = strtol(argv[2], NULL, 16);
        uint8_t want[3] = {(uint8_t)(rgb >> 16), (uint8_t)(rgb >> 8), (uint8_t)rgb};
        for (int i = 0; i < w * h; i++)
            n += near(a + 3 * i, want);
        printf("%d\n", n);
    } else {
        b = load(argv[2], &w2, &h2);
        for (int i = 0; i < w * h; i++)
            n += w != w2 || h != h2 || !near(a + 3 * i, b + 3 * i);
        printf("%d\n", n);
    }
    free(a);
    free(b);
    return 0;
}
