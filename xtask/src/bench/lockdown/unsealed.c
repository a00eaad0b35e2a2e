/* Loaded ahead of libc into a daemon that is measured: while /run/unsealed stands there when the daemon starts, its request
 * for a seccomp filter and for Landlock's restriction is answered with success and not made. All else is the kernel's.
 *
 * So the program with the lock-down and the one without it are the same bytes, and no released program has a switch for it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/seccomp.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_landlock_restrict_self
#define SYS_landlock_restrict_self 446
#endif

typedef long call(long, ...);

static call *next;
static int unsealed;

__attribute__((constructor)) static void look(void) {
    next = (call *)dlsym(RTLD_NEXT, "syscall");
    unsealed = access("/run/unsealed", F_OK) == 0;
}

long syscall(long number, ...) {
    va_list list;
    long of[6];
    va_start(list, number);
    for (int i = 0; i < 6; i++) of[i] = va_arg(list, long);
    va_end(list);
    if (unsealed && number == SYS_seccomp && of[0] == SECCOMP_SET_MODE_FILTER) return 0;
    if (unsealed && number == SYS_landlock_restrict_self) return 0;
    if (!next) next = (call *)dlsym(RTLD_NEXT, "syscall");
    return next(number, of[0], of[1], of[2], of[3], of[4], of[5]);
}
