# Op sources of tpo_core, one a line. An op is one function: check, launch, record.
foreach(file
    assignment.cpp
    attention.cpp
    bmm.cpp
    box_loss.cpp
    cast.cpp
    conv.cpp
    cosine.cpp
    cross_entropy.cpp
    dropout.cpp
    element_loss.cpp
    embedding.cpp
    index.cpp
    layout.cpp
    matmul.cpp
    norm.cpp
    pointwise.cpp
    pool.cpp
    position.cpp
    prelu.cpp
    reduce.cpp
    resize.cpp
    rope.cpp
    row_loss.cpp
    segment.cpp
    select.cpp
    softmax.cpp
    window.cpp)
  if(EXISTS ${CMAKE_CURRENT_LIST_DIR}/${file})
    target_sources(tpo_core PRIVATE ${CMAKE_CURRENT_LIST_DIR}/${file})
  endif()
endforeach()
# The optimizer's maths.
target_sources(tpo_core PRIVATE
  ${CMAKE_CURRENT_LIST_DIR}/../optim/adamw.cpp
  ${CMAKE_CURRENT_LIST_DIR}/../optim/clip.cpp
  ${CMAKE_CURRENT_LIST_DIR}/../optim/lr_schedule.cpp)
