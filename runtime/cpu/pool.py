"""LLVM IR text of the fork-join pool behind @graphc_parallel, on libc alone (pthread, futex).

How it works. One 64-bit word, {generation: 32, low: 16, high: 16}, holds the chunks that nobody has taken. The
caller takes chunks from the low end and workers from the high end, each by one compare-and-swap, so kernel after
kernel a thread meets the data it wrote before. The caller waits only for chunks that somebody took: on a crowded
machine, where workers aren't scheduled, it does all the work itself. Idle workers spin, then yield, then sleep.
The threads that a fork loses are started again by the child's first parallel loop.
"""

from __future__ import annotations

from graphc.runtime.cpu.target import Target

_SPIN_NS = 50_000  # an idle worker spins so long: the gap between two kernels of one call
_IDLE_NS = 200_000  # then yields until so long after its last work: the gap between two calls; then sleeps
_JOIN_NS = 100_000  # the caller spins so long for the chunks of others, then sleeps until they are done

# Signals go to Python's threads only; a worker's stack is what the main thread has by default, also under musl.
_POOL = r"""
@graphc_pool_word = internal global i64 0, align 64      ; {generation: 32, low: 16, high: 16}
@graphc_pool_done = internal global i32 0, align 64      ; chunks finished; the caller may sleep on it
@graphc_pool_waiting = internal global i32 0             ; 1: the caller sleeps
@graphc_pool_task = internal global ptr null, align 64
@graphc_pool_args = internal global ptr null
@graphc_pool_count = internal global i64 0
@graphc_pool_step = internal global i64 0                ; iterations a chunk
@graphc_pool_chunks = internal global i32 0
@graphc_pool_active = internal global i32 0              ; workers that may take chunks: threads - 1
@graphc_pool_started = internal global i32 0             ; workers that exist
@graphc_pool_wake = internal global i32 0, align 64      ; idle workers sleep on it
@graphc_pool_asleep = internal global i32 0              ; how many
@graphc_pool_park = internal global i32 0                ; workers beyond `active` sleep on it
@graphc_pool_busy = internal global i32 0, align 64      ; 1: some thread is in a parallel loop
@graphc_pool_name = private constant [7 x i8] c"graphc\00"

declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_detach(i64)
declare i32 @pthread_setname_np(i64, ptr)
declare i32 @pthread_attr_init(ptr)
declare i32 @pthread_attr_setstacksize(ptr, i64)
declare i32 @pthread_attr_destroy(ptr)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare i32 @sigfillset(ptr)
declare i32 @sched_yield()
declare i32 @clock_gettime(i32, ptr)
declare i64 @syscall(i64, ...)
@PAUSE_DECLARATION@

define internal i64 @graphc_now() nounwind {
  %time = alloca [2 x i64]
  %status = call i32 @clock_gettime(i32 1, ptr %time)
  %seconds = load i64, ptr %time
  %rest = getelementptr i64, ptr %time, i64 1
  %ns = load i64, ptr %rest
  %high = mul i64 %seconds, 1000000000
  %now = add i64 %high, %ns
  ret i64 %now
}

define internal void @graphc_sleep(ptr %word, i32 %expected) nounwind {
  %status = call i64 (i64, ...) @syscall(i64 @FUTEX@, ptr %word, i64 128, i32 %expected, ptr null, ptr null, i64 0)
  ret void
}

define internal void @graphc_rouse(ptr %word, i32 %threads) nounwind {
  %status = call i64 (i64, ...) @syscall(i64 @FUTEX@, ptr %word, i64 129, i32 %threads, ptr null, ptr null, i64 0)
  ret void
}

; Run chunk number %index of the job at hand, and count it. The job's fields can't change before that.
define internal void @graphc_run_chunk(i64 %index) nounwind {
  %task = load ptr, ptr @graphc_pool_task
  %args = load ptr, ptr @graphc_pool_args
  %count = load i64, ptr @graphc_pool_count
  %step = load i64, ptr @graphc_pool_step
  %chunks = load i32, ptr @graphc_pool_chunks
  %begin = mul i64 %index, %step
  %full = add i64 %begin, %step
  %last = icmp slt i64 %count, %full
  %end = select i1 %last, i64 %count, i64 %full
  call void %task(ptr %args, i64 %begin, i64 %end)
  %before = atomicrmw add ptr @graphc_pool_done, i32 1 seq_cst
  %after = add i32 %before, 1
  %all = icmp eq i32 %after, %chunks
  br i1 %all, label %finished, label %out
finished:
  %waiting = load atomic i32, ptr @graphc_pool_waiting seq_cst, align 4
  %asleep = icmp ne i32 %waiting, 0
  br i1 %asleep, label %rouse, label %out
rouse:
  call void @graphc_rouse(ptr @graphc_pool_done, i32 1)
  br label %out
out:
  ret void
}

; Take one chunk from the low end (low = 1) or the high end (low = 0), and run it. False if none is left.
define internal i1 @graphc_take(i1 %from_low) nounwind {
entry:
  %first = load atomic i64, ptr @graphc_pool_word acquire, align 8
  br label %try
try:
  %word = phi i64 [ %first, %entry ], [ %seen, %swap ]
  %high = and i64 %word, 65535
  %shifted = lshr i64 %word, 16
  %low = and i64 %shifted, 65535
  %some = icmp ult i64 %low, %high
  br i1 %some, label %swap, label %none
swap:
  %change = select i1 %from_low, i64 65536, i64 -1
  %next = add i64 %word, %change
  %pair = cmpxchg ptr @graphc_pool_word, i64 %word, i64 %next acq_rel acquire
  %seen = extractvalue { i64, i1 } %pair, 0
  %swapped = extractvalue { i64, i1 } %pair, 1
  br i1 %swapped, label %run, label %try
run:
  %top = sub i64 %high, 1
  %index = select i1 %from_low, i64 %low, i64 %top
  call void @graphc_run_chunk(i64 %index)
  ret i1 true
none:
  ret i1 false
}

define internal ptr @graphc_worker(ptr %number) nounwind {
entry:
  %wide = ptrtoint ptr %number to i64
  %index = trunc i64 %wide to i32
  br label %awake
awake:                                            ; start to count idle time
  %start = call i64 @graphc_now()
  br label %look
look:
  %polls = phi i64 [ 0, %awake ], [ %more, %pause ], [ 0, %yield ]
  %active = load atomic i32, ptr @graphc_pool_active monotonic, align 4
  %surplus = icmp sge i32 %index, %active
  br i1 %surplus, label %park, label %take
take:
  %ran = call i1 @graphc_take(i1 false)
  br i1 %ran, label %awake, label %idle
idle:
  %more = add i64 %polls, 1
  %soon = icmp ult i64 %more, 64
  br i1 %soon, label %pause, label %clock
pause:
  @PAUSE@
  br label %look
clock:
  %now = call i64 @graphc_now()
  %waited = sub i64 %now, %start
  %spinning = icmp slt i64 %waited, @SPIN_NS@
  br i1 %spinning, label %yield, label %tired
tired:
  %yielding = icmp slt i64 %waited, @IDLE_NS@
  br i1 %yielding, label %give, label %sleep
give:
  %given = call i32 @sched_yield()
  br label %yield
yield:
  br label %look
sleep:                                            ; look once more after saying so: the caller stores, then reads
  %wake = load atomic i32, ptr @graphc_pool_wake seq_cst, align 4
  %more_asleep = atomicrmw add ptr @graphc_pool_asleep, i32 1 seq_cst
  %word = load atomic i64, ptr @graphc_pool_word seq_cst, align 8
  %high = and i64 %word, 65535
  %shifted = lshr i64 %word, 16
  %low = and i64 %shifted, 65535
  %work = icmp ult i64 %low, %high
  br i1 %work, label %woken, label %fall_asleep
fall_asleep:
  call void @graphc_sleep(ptr @graphc_pool_wake, i32 %wake)
  br label %woken
woken:
  %less_asleep = atomicrmw sub ptr @graphc_pool_asleep, i32 1 seq_cst
  br label %awake
park:
  %parked = load atomic i32, ptr @graphc_pool_park seq_cst, align 4
  %active_now = load atomic i32, ptr @graphc_pool_active seq_cst, align 4
  %still = icmp sge i32 %index, %active_now
  br i1 %still, label %stay, label %awake
stay:
  call void @graphc_sleep(ptr @graphc_pool_park, i32 %parked)
  br label %awake
}

; Start the workers that are missing. Fewer are made do with if the system refuses more.
define internal void @graphc_start_workers() nounwind noinline {
entry:
  %attributes = alloca [128 x i8], align 16
  %all = alloca [128 x i8], align 16
  %old = alloca [128 x i8], align 16
  %thread = alloca i64
  %s0 = call i32 @pthread_attr_init(ptr %attributes)
  %s1 = call i32 @pthread_attr_setstacksize(ptr %attributes, i64 8388608)
  %s2 = call i32 @sigfillset(ptr %all)
  %s3 = call i32 @pthread_sigmask(i32 2, ptr %all, ptr %old)
  br label %next
next:
  %have = load atomic i32, ptr @graphc_pool_started monotonic, align 4
  %want = load atomic i32, ptr @graphc_pool_active monotonic, align 4
  %missing = icmp slt i32 %have, %want
  br i1 %missing, label %create, label %out
create:
  %wide = zext i32 %have to i64
  %number = inttoptr i64 %wide to ptr
  %status = call i32 @pthread_create(ptr %thread, ptr %attributes, ptr @graphc_worker, ptr %number)
  %failed = icmp ne i32 %status, 0
  br i1 %failed, label %refused, label %created
created:
  %id = load i64, ptr %thread
  %s4 = call i32 @pthread_setname_np(i64 %id, ptr @graphc_pool_name)
  %s5 = call i32 @pthread_detach(i64 %id)
  %one_more = add i32 %have, 1
  store atomic i32 %one_more, ptr @graphc_pool_started monotonic, align 4
  br label %next
refused:
  store atomic i32 %have, ptr @graphc_pool_active seq_cst, align 4
  br label %out
out:
  %s6 = call i32 @pthread_sigmask(i32 2, ptr %old, ptr null)
  %s7 = call i32 @pthread_attr_destroy(ptr %attributes)
  ret void
}

define void @graphc_parallel(ptr %task, ptr %args, i64 %count, i64 %grain) nounwind {
entry:
  %some = icmp sgt i64 %count, 0
  br i1 %some, label %divide, label %out
divide:
  %positive = icmp sgt i64 %grain, 0
  %unit = select i1 %positive, i64 %grain, i64 1
  %less = sub i64 %count, 1
  %units_less = sdiv i64 %less, %unit
  %units = add i64 %units_less, 1
  %active = load atomic i32, ptr @graphc_pool_active monotonic, align 4
  %alone = icmp sle i32 %active, 0
  %single = icmp sle i64 %units, 1
  %direct = or i1 %alone, %single
  br i1 %direct, label %serial, label %claim
claim:
  %claimed = cmpxchg ptr @graphc_pool_busy, i32 0, i32 1 acquire monotonic
  %free = extractvalue { i32, i1 } %claimed, 1
  br i1 %free, label %own, label %serial
serial:
  call void %task(ptr %args, i64 0, i64 %count)
  br label %out
own:
  %started = load atomic i32, ptr @graphc_pool_started monotonic, align 4
  %short = icmp slt i32 %started, %active
  br i1 %short, label %start, label %publish
start:
  call void @graphc_start_workers()
  br label %publish
publish:                                          ; at most 8 chunks a thread, each a whole number of units
  %threads_less = sext i32 %active to i64
  %threads = add i64 %threads_less, 1
  %most = mul i64 %threads, 8
  %per_less = sdiv i64 %units_less, %most
  %per = add i64 %per_less, 1
  %step = mul i64 %per, %unit
  %chunks_less = sdiv i64 %less, %step
  %chunks = add i64 %chunks_less, 1
  %chunks32 = trunc i64 %chunks to i32
  store ptr %task, ptr @graphc_pool_task
  store ptr %args, ptr @graphc_pool_args
  store i64 %count, ptr @graphc_pool_count
  store i64 %step, ptr @graphc_pool_step
  store i32 %chunks32, ptr @graphc_pool_chunks
  store atomic i32 0, ptr @graphc_pool_done monotonic, align 4
  %old = load atomic i64, ptr @graphc_pool_word monotonic, align 8
  %generation = lshr i64 %old, 32
  %next = add i64 %generation, 1
  %place = shl i64 %next, 32
  %word = or i64 %place, %chunks
  store atomic i64 %word, ptr @graphc_pool_word seq_cst, align 8
  %asleep = load atomic i32, ptr @graphc_pool_asleep seq_cst, align 4
  %sleepers = icmp ne i32 %asleep, 0
  br i1 %sleepers, label %rouse, label %work
rouse:
  %woke = atomicrmw add ptr @graphc_pool_wake, i32 1 seq_cst
  %helpers = trunc i64 %chunks_less to i32
  call void @graphc_rouse(ptr @graphc_pool_wake, i32 %helpers)
  br label %work
work:
  %ran = call i1 @graphc_take(i1 true)
  br i1 %ran, label %work, label %join
join:
  %done = load atomic i32, ptr @graphc_pool_done acquire, align 4
  %all = icmp eq i32 %done, %chunks32
  br i1 %all, label %finish, label %wait
wait:
  %from = call i64 @graphc_now()
  br label %poll
poll:
  %polls = phi i64 [ 0, %wait ], [ %more, %pause ], [ 0, %clock ]
  %done_poll = load atomic i32, ptr @graphc_pool_done acquire, align 4
  %all_poll = icmp eq i32 %done_poll, %chunks32
  br i1 %all_poll, label %finish, label %not_yet
not_yet:
  %more = add i64 %polls, 1
  %soon = icmp ult i64 %more, 64
  br i1 %soon, label %pause, label %clock
pause:
  @PAUSE@
  br label %poll
clock:
  %now = call i64 @graphc_now()
  %waited = sub i64 %now, %from
  %patient = icmp slt i64 %waited, @JOIN_NS@
  br i1 %patient, label %poll, label %sleep
sleep:                                            ; whoever finishes the last chunk reads this after counting it
  store atomic i32 1, ptr @graphc_pool_waiting seq_cst, align 4
  br label %asleep_until
asleep_until:
  %done_now = load atomic i32, ptr @graphc_pool_done seq_cst, align 4
  %all_now = icmp eq i32 %done_now, %chunks32
  br i1 %all_now, label %awake, label %fall_asleep
fall_asleep:
  call void @graphc_sleep(ptr @graphc_pool_done, i32 %done_now)
  br label %asleep_until
awake:
  store atomic i32 0, ptr @graphc_pool_waiting seq_cst, align 4
  br label %finish
finish:
  store atomic i32 0, ptr @graphc_pool_busy release, align 4
  br label %out
out:
  ret void
}

define void @graphc_set_threads(i32 %threads) nounwind {
  %active = sub i32 %threads, 1
  store atomic i32 %active, ptr @graphc_pool_active seq_cst, align 4
  %parked = atomicrmw add ptr @graphc_pool_park, i32 1 seq_cst
  call void @graphc_rouse(ptr @graphc_pool_park, i32 2147483647)
  ret void
}

define i32 @graphc_workers() nounwind {
  %started = load atomic i32, ptr @graphc_pool_started monotonic, align 4
  ret i32 %started
}

; In the child of a fork: no worker lives, and whatever job was running belongs to the parent.
define void @graphc_reset_threads() nounwind {
  store i64 0, ptr @graphc_pool_word
  store i32 0, ptr @graphc_pool_done
  store i32 0, ptr @graphc_pool_waiting
  store i32 0, ptr @graphc_pool_started
  store i32 0, ptr @graphc_pool_asleep
  store i32 0, ptr @graphc_pool_busy
  ret void
}
"""

# Where there is no futex, loops run serially: correct, slow, and said so by `state().parallel`.
_SERIAL = r"""
define void @graphc_parallel(ptr %task, ptr %args, i64 %count, i64 %grain) nounwind {
  %some = icmp sgt i64 %count, 0
  br i1 %some, label %run, label %out
run:
  call void %task(ptr %args, i64 0, i64 %count)
  br label %out
out:
  ret void
}

define void @graphc_set_threads(i32 %threads) nounwind {
  ret void
}

define i32 @graphc_workers() nounwind {
  ret i32 0
}

define void @graphc_reset_threads() nounwind {
  ret void
}
"""


def pool_text(target: Target) -> str:
    """The pool's LLVM IR for a target: it defines graphc_parallel, graphc_set_threads (i32), graphc_workers and
    graphc_reset_threads."""
    if not target.linux:
        return _SERIAL
    pause = ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()")
    if not target.x86:
        pause = ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)")
    words = {
        "@PAUSE_DECLARATION@": pause[0],
        "@PAUSE@": pause[1],
        "@FUTEX@": "202" if target.x86 else "98",  # the system call's number
        "@SPIN_NS@": str(_SPIN_NS),
        "@IDLE_NS@": str(_IDLE_NS),
        "@JOIN_NS@": str(_JOIN_NS),
    }
    text = _POOL
    for word, meaning in words.items():
        text = text.replace(word, meaning)
    return text
