"""LLVM IR text: Tensors around what a program wrote; gradients set, the result put together."""

RESULTS = """
; A new Tensor around an array that a program wrote.
define internal ptr @graphc_wrap(ptr %names, ptr %array) nounwind {
entry:
  %type = cell ptr %names[TENSOR]
  %none = cell ptr %names[NONE]
  %data_name = cell ptr %names[DATA]
  %view_name = cell ptr %names[VIEW]
  %history_name = cell ptr %names[HISTORY]
  %tensor = call ptr @PyType_GenericAlloc(ptr %type, i64 0)
  %failed = icmp eq ptr %tensor, null
  br i1 %failed, label %out, label %set
set:
  %s0 = call i32 @PyObject_SetAttr(ptr %tensor, ptr %data_name, ptr %array)
  %s1 = call i32 @PyObject_SetAttr(ptr %tensor, ptr %view_name, ptr %none)
  %s2 = call i32 @PyObject_SetAttr(ptr %tensor, ptr %history_name, ptr %none)
  br label %out
out:
  ret ptr %tensor
}

; Set the gradients. False, and a Python error, if the memory is exhausted.
define internal i1 @graphc_set_grads(ptr %record, ptr %items) nounwind {
entry:
  %names = cell ptr %record[NAMES]
  %grad_name = cell ptr %names[GRAD]
  %none = cell ptr %names[NONE]
  %count = cell i64 %record[GRADS]
  %rows = cell ptr %record[GRAD_ROWS]
  %held = cell ptr %record[HELD]
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %i_next, %set ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %look, label %yes
look:
  %i_next = add i64 %i, 1
  %at = mul i64 %i, GRAD_ROW
  %row = getelementptr i64, ptr %rows, i64 %at
  %of_leaf = cell i64 %row[0]
  %captured = cell ptr %row[1]
  %argument = cell i64 %row[2]
  %is_leaf = icmp ne i64 %of_leaf, 0
  br i1 %is_leaf, label %from_leaf, label %owned
from_leaf:
  %position = cell i64 %row[1]
  %leaf = cell ptr %items[%position]
  br label %owned
owned:
  %owner = phi ptr [ %captured, %look ], [ %leaf, %from_leaf ]
  %cleared = icmp slt i64 %argument, 0
  br i1 %cleared, label %clear, label %make
clear:
  call void @Py_IncRef(ptr %none)
  br label %set
make:
  %array = cell ptr %held[%argument]
  %wrapped = call ptr @graphc_wrap(ptr %names, ptr %array)
  %failed = icmp eq ptr %wrapped, null
  br i1 %failed, label %no, label %set
set:
  %value = phi ptr [ %none, %clear ], [ %wrapped, %make ]
  %status = call i32 @PyObject_SetAttr(ptr %owner, ptr %grad_name, ptr %value)
  call void @Py_DecRef(ptr %value)
  br label %next
yes:
  ret i1 true
no:
  ret i1 false
}

; The returned value, from its leaves upwards on a stack. Null, and a Python error, if the memory is exhausted.
define internal ptr @graphc_result(ptr %record, ptr %items) nounwind {
entry:
  %names = cell ptr %record[NAMES]
  %held = cell ptr %record[HELD]
  %results = cell ptr %record[RESULT_ROWS]
  %steps = cell i64 %record[STEPS]
  %rows = cell ptr %record[STEP_ROWS]
  %stack = cell ptr %record[STACK]
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %i_next, %push ]
  %top = phi i64 [ 0, %entry ], [ %top_next, %push ]
  %more = icmp slt i64 %i, %steps
  br i1 %more, label %step, label %done
step:
  %i_next = add i64 %i, 1
  %at = mul i64 %i, STEP_ROW
  %row = getelementptr i64, ptr %rows, i64 %at
  %kind = cell i64 %row[0]
  %n = cell i64 %row[1]
  %is_leaf = icmp eq i64 %kind, STEP_LEAF
  br i1 %is_leaf, label %leaf, label %group
leaf:
  %result_at = mul i64 %n, RESULT_ROW
  %result = getelementptr i64, ptr %results, i64 %result_at
  %result_kind = cell i64 %result[0]
  %result_number = cell i64 %result[1]
  switch i64 %result_kind, label %given [ i64 RESULT_OUTPUT, label %output
                                          i64 RESULT_LEAF, label %argument ]
output:
  %array = cell ptr %held[%result_number]
  %wrapped = call ptr @graphc_wrap(ptr %names, ptr %array)
  br label %push
argument:
  %leaf_given = cell ptr %items[%result_number]
  call void @Py_IncRef(ptr %leaf_given)
  br label %push
given:
  %value = cell ptr %result[1]
  call void @Py_IncRef(ptr %value)
  br label %push
group:
  %base = sub i64 %top, %n
  %is_tuple = icmp eq i64 %kind, STEP_TUPLE
  br i1 %is_tuple, label %tuple, label %list
tuple:
  %new_tuple = call ptr @PyTuple_New(i64 %n)
  br label %made
list:
  %new_list = call ptr @PyList_New(i64 %n)
  br label %made
made:
  %made_group = phi ptr [ %new_tuple, %tuple ], [ %new_list, %list ]
  %no_memory = icmp eq ptr %made_group, null
  br i1 %no_memory, label %failed, label %fill
fill:
  %k = phi i64 [ 0, %made ], [ %k_next, %filled ]
  %unfilled = icmp slt i64 %k, %n
  br i1 %unfilled, label %put, label %push
put:
  %k_next = add i64 %k, 1
  %from = add i64 %base, %k
  %child = cell ptr %stack[%from]
  br i1 %is_tuple, label %put_tuple, label %put_list
put_tuple:
  %s0 = call i32 @PyTuple_SetItem(ptr %made_group, i64 %k, ptr %child)
  br label %filled
put_list:
  %s1 = call i32 @PyList_SetItem(ptr %made_group, i64 %k, ptr %child)
  br label %filled
filled:
  br label %fill
push:
  %pushed = phi ptr [ %wrapped, %output ], [ %leaf_given, %argument ], [ %value, %given ], [ %made_group, %fill ]
  %place = phi i64 [ %top, %output ], [ %top, %argument ], [ %top, %given ], [ %base, %fill ]
  cell %stack[%place] = ptr %pushed
  %top_next = add i64 %place, 1
  %exists = icmp ne ptr %pushed, null
  br i1 %exists, label %next, label %failed
done:
  %whole = load ptr, ptr %stack
  ret ptr %whole
failed:
  ret ptr null
}
"""
