"""LLVM IR text of the shortcut's checks: do the arguments fit, do the guards hold? They change nothing."""

CHECKS = """
; A new reference to an attribute; null, and no error, if there is none.
define internal ptr @graphc_attribute(ptr %object, ptr %name) nounwind {
  %found = call ptr @PyObject_GetAttr(ptr %object, ptr %name)
  %missing = icmp eq ptr %found, null
  br i1 %missing, label %clear, label %out
clear:
  call void @PyErr_Clear()
  br label %out
out:
  ret ptr %found
}

; Whether an attribute is that very object.
define internal i1 @graphc_attribute_is(ptr %object, ptr %name, ptr %expected) nounwind {
  %found = call ptr @graphc_attribute(ptr %object, ptr %name)
  %is = icmp eq ptr %found, %expected
  call void @Py_DecRef(ptr %found)
  ret i1 %is
}

define internal i1 @graphc_leaf_fits(ptr %record, ptr %row, ptr %leaf) nounwind {
entry:
  %kind = cell i64 %row[0]
  %expected = cell ptr %row[1]
  %type = field ptr %leaf+8
  %right_type = icmp eq ptr %type, %expected
  %want = cell ptr %row[3]
  %following = cell ptr %record[NEXT]
  %last = icmp eq ptr %following, null            ; shapes tell records apart; the last one's are checked later anyway
  switch i64 %kind, label %type_only [ i64 LEAF_TENSOR, label %tensor
                                       i64 LEAF_ARRAY, label %array
                                       i64 LEAF_SAME, label %same
                                       i64 LEAF_EQUAL, label %same ]
type_only:
  ret i1 %right_type
array:
  %array_fits = call i1 @graphc_fits(ptr %leaf, ptr %want)
  ret i1 %array_fits
same:
  %is = icmp eq ptr %leaf, %expected
  br i1 %is, label %yes, label %other
other:
  %comparable = icmp eq i64 %kind, LEAF_EQUAL
  %expected_type = field ptr %expected+8
  %alike = icmp eq ptr %type, %expected_type
  %compare = and i1 %comparable, %alike
  br i1 %compare, label %rich, label %no
rich:
  %verdict = call i32 @PyObject_RichCompareBool(ptr %leaf, ptr %expected, i32 2)
  %equal = icmp eq i32 %verdict, 1
  ret i1 %equal
tensor:
  %names = cell ptr %record[NAMES]
  br i1 %right_type, label %shape, label %no
shape:
  br i1 %last, label %history, label %look
look:
  %data_name = cell ptr %names[DATA]
  %data = call ptr @graphc_attribute(ptr %leaf, ptr %data_name)
  %empty = icmp eq ptr %data, null
  br i1 %empty, label %no, label %compare_shape
compare_shape:
  %fits = call i1 @graphc_fits(ptr %data, ptr %want)
  call void @Py_DecRef(ptr %data)
  br i1 %fits, label %history, label %no
history:
  %none = cell ptr %names[NONE]
  %history_name = cell ptr %names[HISTORY]
  %has_none = call i1 @graphc_attribute_is(ptr %leaf, ptr %history_name, ptr %none)
  %none64 = zext i1 %has_none to i64
  %want_history = cell i64 %row[2]
  %right = icmp ne i64 %none64, %want_history
  br i1 %right, label %grad, label %no
grad:
  %grad_name = cell ptr %names[GRAD]
  %no_grad = call i1 @graphc_attribute_is(ptr %leaf, ptr %grad_name, ptr %none)
  br i1 %no_grad, label %strangers, label %no
strangers:                                        ; tensors that the call changes may not come in as arguments too
  %exclusives = cell i64 %record[EXCLUSIVES]
  %exclusive = cell ptr %record[EXCLUSIVE]
  br label %next
next:
  %k = phi i64 [ 0, %strangers ], [ %k_next, %compare_with ]
  %more = icmp slt i64 %k, %exclusives
  br i1 %more, label %compare_with, label %yes
compare_with:
  %owned = cell ptr %exclusive[%k]
  %k_next = add i64 %k, 1
  %met = icmp eq ptr %owned, %leaf
  br i1 %met, label %no, label %next
yes:
  ret i1 true
no:
  ret i1 false
}

; Whether the arguments are of the kinds that the record was made for, and no tensor among them stands twice.
define internal i1 @graphc_leaves_fit(ptr %record, ptr %leaves) nounwind {
entry:
  %count = cell i64 %record[LEAVES]
  %rows = cell ptr %record[LEAF_ROWS]
  %given = field i64 %leaves+16
  %items = getelementptr i8, ptr %leaves, i64 24
  %agree = icmp eq i64 %given, %count
  br i1 %agree, label %next, label %no
next:
  %i = phi i64 [ 0, %entry ], [ %i_next, %done ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %look, label %yes
look:
  %at = mul i64 %i, LEAF_ROW
  %row = getelementptr i64, ptr %rows, i64 %at
  %kind = cell i64 %row[0]
  %leaf = cell ptr %items[%i]
  %fits = call i1 @graphc_leaf_fits(ptr %record, ptr %row, ptr %leaf)
  br i1 %fits, label %fitting, label %no
fitting:
  %tensor = icmp eq i64 %kind, LEAF_TENSOR
  br i1 %tensor, label %twice, label %done
twice:
  %j = phi i64 [ 0, %fitting ], [ %j_next, %other ]
  %before = icmp slt i64 %j, %i
  br i1 %before, label %other, label %done
other:
  %other_leaf = cell ptr %items[%j]
  %j_next = add i64 %j, 1
  %again = icmp eq ptr %other_leaf, %leaf
  br i1 %again, label %no, label %twice
done:
  %i_next = add i64 %i, 1
  br label %next
yes:
  ret i1 true
no:
  ret i1 false
}

; Whether a dict has exactly the keys of a tuple, the same objects in the same order.
define internal i1 @graphc_same_keys(ptr %dict, ptr %keys) nounwind {
entry:
  %place = alloca i64
  %key = alloca ptr
  store i64 0, ptr %place
  %count = field i64 %keys+16
  %items = getelementptr i8, ptr %keys, i64 24
  %size = call i64 @PyDict_Size(ptr %dict)
  %agree = icmp eq i64 %size, %count
  br i1 %agree, label %next, label %no
next:
  %i = phi i64 [ 0, %entry ], [ %i_next, %compare ]
  %found = call i32 @PyDict_Next(ptr %dict, ptr %place, ptr %key, ptr null)
  %more = icmp ne i32 %found, 0
  br i1 %more, label %compare, label %yes
compare:
  %now = load ptr, ptr %key
  %expected = cell ptr %items[%i]
  %i_next = add i64 %i, 1
  %same = icmp eq ptr %now, %expected
  br i1 %same, label %next, label %no
yes:
  ret i1 true
no:
  ret i1 false
}

; Whether what a guard watches is the very object that it was; false decides nothing yet.
define internal i1 @graphc_unchanged(ptr %row) nounwind {
entry:
  %kind = cell i64 %row[0]
  %function = cell ptr %row[1]
  %object = cell ptr %row[2]
  %key = cell ptr %row[3]
  %expected = cell ptr %row[4]
  switch i64 %kind, label %no [ i64 GUARD_BORROWED, label %borrowed
                                i64 GUARD_NEW, label %new
                                i64 GUARD_NUMBER, label %number
                                i64 GUARD_KEYS, label %keys
                                i64 GUARD_BYTES, label %bytes
                                i64 GUARD_THROUGH, label %through ]
borrowed:
  %lent = call ptr %function(ptr %object, ptr %key)
  %gone = icmp eq ptr %lent, null
  br i1 %gone, label %clear, label %compare_lent
clear:
  call void @PyErr_Clear()
  br label %compare_lent
compare_lent:
  %same_lent = icmp eq ptr %lent, %expected
  ret i1 %same_lent
new:
  %made = call ptr %function(ptr %object, ptr %key)
  %failed = icmp eq ptr %made, null
  br i1 %failed, label %clear_made, label %compare_made
clear_made:
  call void @PyErr_Clear()
  br label %compare_made
compare_made:
  %same_made = icmp eq ptr %made, %expected
  call void @Py_DecRef(ptr %made)
  ret i1 %same_made
number:
  %counted = call i64 %function(ptr %object)
  %number_expected = ptrtoint ptr %expected to i64
  %same_number = icmp eq i64 %counted, %number_expected
  ret i1 %same_number
keys:
  %same_keys = call i1 @graphc_same_keys(ptr %object, ptr %expected)
  ret i1 %same_keys
bytes:
  %fits = call i1 @graphc_fits(ptr %object, ptr %key)
  br i1 %fits, label %compare_bytes, label %no
compare_bytes:
  %data = field ptr %object+16
  %size = cell i64 %key[ARRAY_SIZE]
  %differ = call i32 @memcmp(ptr %data, ptr %expected, i64 %size)
  %same_bytes = icmp eq i32 %differ, 0
  ret i1 %same_bytes
through:
  %middle = call ptr @graphc_attribute(ptr %object, ptr %key)
  %nothing = icmp eq ptr %middle, null
  br i1 %nothing, label %no, label %beyond
beyond:
  %same_beyond = call i1 @graphc_attribute_is(ptr %middle, ptr %function, ptr %expected)
  call void @Py_DecRef(ptr %middle)
  ret i1 %same_beyond
no:
  ret i1 false
}

; Whether all guards hold: what they watch is unchanged, or Python finds it equal for all that a trace makes of it.
define internal i1 @graphc_guards_hold(ptr %record) nounwind {
entry:
  %names = cell ptr %record[NAMES]
  %true = cell ptr %names[TRUE]
  %count = cell i64 %record[GUARDS]
  %rows = cell ptr %record[GUARD_ROWS]
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %i_next, %done ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %look, label %yes
look:
  %at = mul i64 %i, GUARD_ROW
  %row = getelementptr i64, ptr %rows, i64 %at
  %unchanged = call i1 @graphc_unchanged(ptr %row)
  br i1 %unchanged, label %done, label %ask
ask:
  %decides = cell ptr %row[5]
  %nobody = icmp eq ptr %decides, null
  br i1 %nobody, label %no, label %asked
asked:
  %verdict = call ptr @PyObject_CallNoArgs(ptr %decides)
  %raised = icmp eq ptr %verdict, null
  br i1 %raised, label %clear, label %judge
clear:
  call void @PyErr_Clear()
  br label %no
judge:
  call void @Py_DecRef(ptr %verdict)
  %holds = icmp eq ptr %verdict, %true
  br i1 %holds, label %done, label %no
done:
  %i_next = add i64 %i, 1
  br label %next
yes:
  ret i1 true
no:
  ret i1 false
}
"""
