"""LLVM IR text: from a record's sources to the program's table of addresses."""

GATHERING = """
; The array (a new reference) that a row names, null if there is none. Numbers are written to %number, and null given.
define internal ptr @graphc_source(ptr %record, ptr %row, ptr %items, ptr %number) nounwind {
entry:
  %names = cell ptr %record[NAMES]
  %data_name = cell ptr %names[DATA]
  %kind = cell i64 %row[0]
  %first = cell ptr %row[1]
  %second = cell ptr %row[2]
  %position = cell i64 %row[3]
  %want = cell ptr %row[4]
  %leaf_cell = getelementptr i64, ptr %items, i64 %position
  switch i64 %kind, label %none [ i64 SOURCE_LEAF_TENSOR, label %leaf_tensor
                                  i64 SOURCE_LEAF_ARRAY, label %leaf_array
                                  i64 SOURCE_LEAF_FLOAT, label %leaf_float
                                  i64 SOURCE_TENSOR, label %tensor
                                  i64 SOURCE_ARRAY, label %array
                                  i64 SOURCE_NUMBER, label %option
                                  i64 SOURCE_NUMBER_AT, label %option_at
                                  i64 SOURCE_GRAD, label %grad
                                  i64 SOURCE_FRESH, label %fresh
                                  i64 SOURCE_LENT, label %lent ]
leaf_tensor:
  %leaf_given = load ptr, ptr %leaf_cell
  br label %data
tensor:
  br label %data
data:
  %holder = phi ptr [ %leaf_given, %leaf_tensor ], [ %first, %tensor ]
  %held = call ptr @graphc_attribute(ptr %holder, ptr %data_name)
  ret ptr %held
leaf_array:
  %leaf_is_array = load ptr, ptr %leaf_cell
  br label %borrowed
array:
  br label %borrowed
borrowed:
  %given = phi ptr [ %leaf_is_array, %leaf_array ], [ %first, %array ]
  call void @Py_IncRef(ptr %given)
  ret ptr %given
leaf_float:
  %leaf_is_float = load ptr, ptr %leaf_cell
  br label %convert
option:
  %value = call ptr @PyDict_GetItemWithError(ptr %first, ptr %second)
  br label %convert
option_at:
  %pair = call ptr @PyDict_GetItemWithError(ptr %first, ptr %second)
  %no_pair = icmp eq ptr %pair, null
  br i1 %no_pair, label %unreadable, label %element
element:
  %element_value = call ptr @PyTuple_GetItem(ptr %pair, i64 %position)
  br label %convert
convert:
  %object = phi ptr [ %leaf_is_float, %leaf_float ], [ %value, %option ], [ %element_value, %element ]
  %absent = icmp eq ptr %object, null
  br i1 %absent, label %unreadable, label %to_double
to_double:
  %double = call double @PyFloat_AsDouble(ptr %object)
  store double %double, ptr %number
  %doubtful = fcmp oeq double %double, -1.0
  br i1 %doubtful, label %unreadable, label %none
unreadable:                                       ; the caller looks whether there is an error
  ret ptr null
grad:
  %grad_name = cell ptr %names[GRAD]
  %found = call ptr @graphc_attribute(ptr %first, ptr %grad_name)
  %no_grad = icmp eq ptr %found, null
  br i1 %no_grad, label %none, label %grad_data
grad_data:
  %grad_held = call ptr @graphc_attribute(ptr %found, ptr %data_name)
  call void @Py_DecRef(ptr %found)
  ret ptr %grad_held
fresh:
  %dtype = cell ptr %want[ARRAY_DTYPE]
  %ndim = cell i64 %want[ARRAY_NDIM]
  %ndim32 = trunc i64 %ndim to i32
  %shape = getelementptr i64, ptr %want, i64 ARRAY_SHAPE
  call void @Py_IncRef(ptr %dtype)                ; PyArray_Empty takes it over
  %made = call ptr @PyArray_Empty(i32 %ndim32, ptr %shape, ptr %dtype, i32 0)
  ret ptr %made
lent:
  %borrowed_block = call ptr @PyObject_CallNoArgs(ptr %first)
  ret ptr %borrowed_block
none:
  ret ptr null
}

; Fill the table with addresses, holding on to the arrays. False if something doesn't fit.
define internal i1 @graphc_gather(ptr %record, ptr %items) nounwind {
entry:
  %count = cell i64 %record[ARGUMENTS]
  %rows = cell ptr %record[SOURCE_ROWS]
  %table = cell ptr %record[TABLE]
  %held = cell ptr %record[HELD]
  %scratch = cell ptr %record[SCRATCH]
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %i_next, %done ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %look, label %yes
look:
  %at = mul i64 %i, SOURCE_ROW
  %row = getelementptr i64, ptr %rows, i64 %at
  %want = cell ptr %row[4]
  %number = getelementptr i64, ptr %scratch, i64 %i
  %array = call ptr @graphc_source(ptr %record, ptr %row, ptr %items, ptr %number)
  %is_number = icmp eq ptr %want, null
  br i1 %is_number, label %converted, label %arrays
converted:
  %error = call ptr @PyErr_Occurred()
  %bad = icmp ne ptr %error, null
  br i1 %bad, label %clear, label %take_number
take_number:
  cell %table[%i] = ptr %number
  br label %done
arrays:
  cell %held[%i] = ptr %array
  %absent = icmp eq ptr %array, null
  br i1 %absent, label %clear, label %check
check:
  %fits = call i1 @graphc_fits(ptr %array, ptr %want)
  br i1 %fits, label %take, label %no
take:
  %moved = call i64 @graphc_address(ptr %array, ptr %want, ptr %table, i64 %i)
  br label %done
done:
  %i_next = add i64 %i, 1
  br label %next
yes:
  ret i1 true
clear:                                            ; the long way meets the error again, and raises it
  call void @PyErr_Clear()
  br label %no
no:
  ret i1 false
}

; Whether arrays that are written share no memory with others.
define internal i1 @graphc_apart(ptr %record) nounwind {
  %count = cell i64 %record[ARGUMENTS]
  %rows = cell ptr %record[SOURCE_ROWS]
  %table = cell ptr %record[TABLE]
  %wants = getelementptr i64, ptr %rows, i64 4
  %shared = call i64 @graphc_shared(i64 %count, ptr %wants, i64 SOURCE_ROW, ptr %table)
  %none = icmp slt i64 %shared, 0
  ret i1 %none
}

define internal void @graphc_let_go(ptr %record) nounwind {
entry:
  %count = cell i64 %record[ARGUMENTS]
  %held = cell ptr %record[HELD]
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %i_next, %drop ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %drop, label %out
drop:
  %array = cell ptr %held[%i]
  cell %held[%i] = ptr null
  call void @Py_DecRef(ptr %array)
  %i_next = add i64 %i, 1
  br label %next
out:
  ret void
}

; Addresses that were never compared must not pass for known ones in the next call.
define internal void @graphc_forget(ptr %record) nounwind {
  %count = cell i64 %record[ARGUMENTS]
  %table = cell ptr %record[TABLE]
  %bytes = mul i64 %count, 8
  call void @llvm.memset.p0.i64(ptr %table, i8 0, i64 %bytes, i1 false)
  ret void
}
"""
