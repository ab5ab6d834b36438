/* A libnvidia-ml.so.1 for tests of the real Python bindings: GPUs are read from the file that FAKE_NVML names, at each nvmlInit.
 *
 * A line each:  driver VERSION
 *               gpu UUID NAME TOTAL FREE [lost | falling | nomem | nothing | mig]...
 *               mig UUID NAME TOTAL FREE        an instance of the gpu above
 * lost: no handle is given.  falling: a handle is, and then every call says that the GPU is lost.  nomem: memory is not supported.
 * nothing: only the uuid is told.  mig: split into instances. Functions that are not here are missing, as in an old driver.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, SMALL = 7, LOST = 15 };
#define MOST 32

typedef struct gpu {
  char uuid[96], name[96];
  unsigned long long total, free;
  int is_lost, is_falling, has_no_memory, says_nothing, is_split, parent; /* parent: -1 of a whole GPU */
} gpu;
typedef struct { unsigned long long total, free, used; } memory;

static gpu gpus[MOST];
static int count = -1;
static char driver[80];

int nvmlInitWithFlags(unsigned flags) {
  char line[512], *path = getenv("FAKE_NVML");
  FILE *file = path ? fopen(path, "r") : NULL;
  int whole = -1;
  (void)flags;
  if (!file) return 9; /* driver not loaded */
  for (count = 0; count < MOST && fgets(line, sizeof line, file);) {
    gpu *one = &gpus[count];
    char kind[16] = "", words[256] = "";
    memset(one, 0, sizeof *one);
    if (sscanf(line, "driver %79s", driver) == 1) continue;
    if (sscanf(line, "%15s %95s %95s %llu %llu %255[^\n]", kind, one->uuid, one->name, &one->total, &one->free, words) < 5) continue;
    one->is_lost = strstr(words, "lost") != NULL;
    one->is_falling = strstr(words, "falling") != NULL;
    one->has_no_memory = strstr(words, "nomem") != NULL;
    one->says_nothing = strstr(words, "nothing") != NULL;
    one->is_split = strstr(words, "mig") != NULL;
    one->parent = strcmp(kind, "mig") == 0 ? whole : -1;
    if (one->parent < 0) whole = count;
    count++;
  }
  fclose(file);
  return SUCCESS;
}

int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int code) {
  switch (code) {
    case NOT_SUPPORTED: return "Not Supported";
    case NOT_FOUND: return "Not Found";
    case LOST: return "GPU is lost";
    default: return "Unknown Error";
  }
}

static int text(char *to, unsigned size, const char *from) {
  if (strlen(from) >= size) return SMALL;
  strcpy(to, from);
  return SUCCESS;
}

static gpu *nth(unsigned index, int parent) {
  for (int at = 0; at < count; at++)
    if (gpus[at].parent == parent && index-- == 0) return &gpus[at];
  return NULL;
}

int nvmlSystemGetDriverVersion(char *to, unsigned size) { return *driver ? text(to, size, driver) : NOT_SUPPORTED; }

int nvmlDeviceGetCount_v2(unsigned *found) {
  if (count < 0) return UNINITIALIZED;
  *found = 0;
  while (nth(*found, -1)) ++*found;
  return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, gpu **found) {
  *found = nth(index, -1);
  return !*found ? INVALID : (*found)->is_lost ? LOST : SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, gpu **found) {
  for (int at = 0; at < count; at++)
    if (strcmp(gpus[at].uuid, uuid) == 0) {
      *found = &gpus[at];
      return gpus[at].is_lost ? LOST : SUCCESS;
    }
  return NOT_FOUND;
}

int nvmlDeviceGetUUID(gpu *one, char *to, unsigned size) { return one->is_falling ? LOST : text(to, size, one->uuid); }

int nvmlDeviceGetName(gpu *one, char *to, unsigned size) {
  return one->is_falling ? LOST : one->says_nothing ? NOT_SUPPORTED : text(to, size, one->name);
}

int nvmlDeviceGetMemoryInfo(gpu *one, memory *found) {
  if (one->is_falling) return LOST;
  if (one->has_no_memory || one->says_nothing) return NOT_SUPPORTED;
  found->total = one->total;
  found->free = one->free;
  found->used = one->total - one->free;
  return SUCCESS;
}

int nvmlDeviceGetMigMode(gpu *one, unsigned *now, unsigned *next) {
  if (one->is_falling) return LOST;
  if (one->says_nothing) return NOT_SUPPORTED;
  *now = *next = (unsigned)one->is_split;
  return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(gpu *one, unsigned *found) {
  *found = one->is_split ? 7 : 0;
  return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(gpu *one, unsigned index, gpu **found) {
  *found = nth(index, (int)(one - gpus));
  return *found ? SUCCESS : NOT_FOUND;
}
