/*
 * What User-Mode Linux needs of its host, preloaded into linux.uml.
 *
 * It lets it run on hosts whose extended processor state is larger than the 2696 bytes
 * it knows, as with AMX: the kernel takes PTRACE_SETREGSET of NT_X86_XSTATE only in its
 * own full size, so the caller's bytes are laid over the thread's present state and all
 * of it is set.
 *
 * It also has every process of a guest end with the main one, however that ends. A
 * traced process would otherwise go on, and its system calls would reach the host.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

/* XSTATE_MAX is more than any processor's state: with AMX it takes 11008 bytes. */
#define XSTATE_MAX (64 * 1024)

/* The number under which linux.uml sets options; PTRACE_SETOPTIONS does the same. */
#define PTRACE_OLDSETOPTIONS 21

typedef long (*ptrace_fn)(int request, pid_t pid, void *addr, void *data);
typedef int (*clone_fn)(int (*fn)(void *), void *stack, int flags, void *arg, ...);

static long set_xstate(ptrace_fn next, pid_t pid, void *note, const struct iovec *set)
{
	static char state[XSTATE_MAX];
	struct iovec whole = { state, sizeof(state) };

	if (next(PTRACE_GETREGSET, pid, note, &whole) < 0)
		return -1;
	memcpy(state, set->iov_base, set->iov_len < whole.iov_len ? set->iov_len : whole.iov_len);
	return next(PTRACE_SETREGSET, pid, note, &whole);
}

long ptrace(enum __ptrace_request request, ...)
{
	static ptrace_fn next;
	va_list args;

	if (!next)
		next = (ptrace_fn)dlsym(RTLD_NEXT, "ptrace");
	va_start(args, request);
	pid_t pid = va_arg(args, pid_t);
	void *addr = va_arg(args, void *);
	void *data = va_arg(args, void *);
	va_end(args);

	if (request == PTRACE_SETREGSET && (unsigned long)addr == NT_X86_XSTATE)
		return set_xstate(next, pid, addr, data);
	if (request == PTRACE_SETOPTIONS || (int)request == PTRACE_OLDSETOPTIONS)
		data = (void *)((unsigned long)data | PTRACE_O_EXITKILL);
	return next(request, pid, addr, data);
}

/* What a helper begins with; it lies at the top of the helper's own stack. */
struct start {
	int (*fn)(void *);
	void *arg;
};

static int helper(void *p)
{
	struct start *start = p;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	return start->fn(start->arg);
}

int clone(int (*fn)(void *), void *stack, int flags, void *arg, ...)
{
	clone_fn next = (clone_fn)dlsym(RTLD_NEXT, "clone");
	struct start *start = (struct start *)stack - 1;

	start->fn = fn;
	start->arg = arg;
	return next(helper, start, flags, start);
}
