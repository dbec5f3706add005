# Kernel sources of tpo_core, one a line. A family is X.h (argument structs, cost) and X_cpu.cpp.
foreach(file
    adamw_cpu.cpp
    assignment_cpu.cpp
    attention_bias.cpp
    attention_bwd_cpu.cpp
    attention_cpu.cpp
    attention_drop.cpp
    attention_few_cpu.cpp
    attention_tiles.cpp
    bmm_cpu.cpp
    box_loss_cpu.cpp
    cast_cpu.cpp
    conv_cpu.cpp
    cosine_cpu.cpp
    cross_entropy_cpu.cpp
    depthwise_cpu.cpp
    dice_cpu.cpp
    dropout_cpu.cpp
    element_loss_cpu.cpp
    embedding_cpu.cpp
    gemm_cpu.cpp
    gemm_panels.cpp
    index_cpu.cpp
    layout_cpu.cpp
    norm_cpu.cpp
    pointwise_cpu.cpp
    pool_cpu.cpp
    position_cpu.cpp
    prelu_cpu.cpp
    reduce_cpu.cpp
    resample_cpu.cpp
    rope_cpu.cpp
    rope_table_cpu.cpp
    row_loss_cpu.cpp
    segment_cpu.cpp
    select_cpu.cpp
    softmax_cpu.cpp
    window_cpu.cpp)
  if(EXISTS ${CMAKE_CURRENT_LIST_DIR}/${file})
    target_sources(tpo_core PRIVATE ${CMAKE_CURRENT_LIST_DIR}/${file})
  endif()
endforeach()
# The tile loops of attention and the fused loops below are written for the vectoriser and unroller of -O3 (measured in
# bench/results/ops.md).
foreach(file
    attention_bias.cpp
    attention_bwd_cpu.cpp
    attention_cpu.cpp
    attention_drop.cpp
    attention_few_cpu.cpp
    attention_tiles.cpp
    conv_cpu.cpp
    cross_entropy_cpu.cpp
    depthwise_cpu.cpp
    embedding_cpu.cpp
    gemm_cpu.cpp
    gemm_panels.cpp
    pool_cpu.cpp
    resample_cpu.cpp
    rope_cpu.cpp
    rope_table_cpu.cpp)
  set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/${file} PROPERTIES COMPILE_OPTIONS "-O3")
endforeach()
