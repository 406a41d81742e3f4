"""LLVM IR text: one call by one record, the search among records, and what Python sees of it."""

CALLS = """
; One call by one record. `miss` if it doesn't fit.
define internal ptr @graphc_try(ptr %record, ptr %leaves, ptr %miss) nounwind {
entry:
  %fit = call i1 @graphc_leaves_fit(ptr %record, ptr %leaves)
  br i1 %fit, label %guards, label %missed
guards:
  %hold = call i1 @graphc_guards_hold(ptr %record)
  br i1 %hold, label %claim, label %missed
claim:                                            ; from here on the record's tables are this call's own
  %busy = cell i64 %record[BUSY]
  %taken = icmp ne i64 %busy, 0
  br i1 %taken, label %missed, label %own
own:
  cell %record[BUSY] = i64 1
  %items = getelementptr i8, ptr %leaves, i64 24
  %gathered = call i1 @graphc_gather(ptr %record, ptr %items)
  br i1 %gathered, label %overlaps, label %refused
overlaps:
  %writes = cell i64 %record[WRITES]
  %harmless = icmp eq i64 %writes, 0
  br i1 %harmless, label %run, label %compare
compare:
  %apart = call i1 @graphc_apart(ptr %record)
  br i1 %apart, label %run, label %refused
refused:                                          ; addresses that were never compared must not pass for known ones
  call void @graphc_forget(ptr %record)
  call void @graphc_let_go(ptr %record)
  cell %record[BUSY] = i64 0
  br label %missed
missed:
  call void @Py_IncRef(ptr %miss)
  ret ptr %miss
run:                                              ; nothing can be refused from here on
  %touch_with = cell ptr %record[TOUCH]
  %untouched = icmp eq ptr %touch_with, null
  br i1 %untouched, label %enter, label %touching
touching:
  %touched = call ptr @PyObject_CallOneArg(ptr %touch_with, ptr %leaves)
  call void @Py_DecRef(ptr %touched)
  %touch_failed = icmp eq ptr %touched, null
  br i1 %touch_failed, label %finish, label %enter
enter:
  %table = cell ptr %record[TABLE]
  %arena = cell ptr %record[ARENA]
  %constants = cell ptr %record[CONSTANTS]
  %function = cell ptr %record[ENTRY]
  %long = cell i64 %record[LONG]
  %status = call i64 @graphc_enter(ptr %function, ptr %table, ptr %arena, ptr %constants, i64 %long)
  %fine = icmp eq i64 %status, 0
  br i1 %fine, label %gradients, label %fail
fail:
  %fail_with = cell ptr %record[FAIL]
  %code = call ptr @PyLong_FromLongLong(i64 %status)
  %raised = call ptr @PyObject_CallOneArg(ptr %fail_with, ptr %code)
  call void @Py_DecRef(ptr %code)
  br label %finish
gradients:
  %set = call i1 @graphc_set_grads(ptr %record, ptr %items)
  br i1 %set, label %build, label %finish
build:
  %built = call ptr @graphc_result(ptr %record, ptr %items)
  br label %finish
finish:
  %result = phi ptr [ null, %fail ], [ null, %touching ], [ null, %gradients ], [ %built, %build ]
  call void @graphc_let_go(ptr %record)
  cell %record[BUSY] = i64 0
  ret ptr %result
}

define ptr @graphc_shortcut(ptr %head, ptr %leaves) nounwind {
entry:
  %cells = field ptr %head+16
  %first = cell ptr %cells[0]
  %miss = cell ptr %cells[1]
  br label %next
next:
  %record = phi ptr [ %first, %entry ], [ %following, %again ]
  %none = icmp eq ptr %record, null
  br i1 %none, label %missed, label %try
try:
  %owner = cell ptr %record[OWNER]
  call void @Py_IncRef(ptr %owner)                ; a record that is dropped meanwhile stays until the call ends
  %result = call ptr @graphc_try(ptr %record, ptr %leaves, ptr %miss)
  %following = cell ptr %record[NEXT]
  call void @Py_DecRef(ptr %owner)
  %no = icmp eq ptr %result, %miss
  br i1 %no, label %again, label %out
again:
  call void @Py_DecRef(ptr %miss)
  br label %next
missed:
  call void @Py_IncRef(ptr %miss)
  ret ptr %miss
out:
  ret ptr %result
}
"""
