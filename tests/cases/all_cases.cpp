// The list of case families. One line declares a family, one line adds it.
#include "tests/op_case.h"

namespace tpo::optest {

void add_assignment_cases(CaseList&);
void add_attention_cases(CaseList&);
void add_bmm_cases(CaseList&);
void add_box_loss_cases(CaseList&);
void add_conv_cases(CaseList&);
void add_cosine_cases(CaseList&);
void add_cross_entropy_cases(CaseList&);
void add_dropout_cases(CaseList&);
void add_element_loss_cases(CaseList&);
void add_embedding_cases(CaseList&);
void add_index_cases(CaseList&);
void add_layout_cases(CaseList&);
void add_matmul_cases(CaseList&);
void add_norm_cases(CaseList&);
void add_pointwise_cases(CaseList&);
void add_pool_cases(CaseList&);
void add_position_cases(CaseList&);
void add_prelu_cases(CaseList&);
void add_reduce_cases(CaseList&);
void add_resize_cases(CaseList&);
void add_rope_cases(CaseList&);
void add_row_loss_cases(CaseList&);
void add_segment_cases(CaseList&);
void add_select_cases(CaseList&);
void add_softmax_cases(CaseList&);
void add_window_cases(CaseList&);

const CaseList& all_cases() {
  static const CaseList list = [] {
    CaseList l;
    add_assignment_cases(l);
    add_attention_cases(l);
    add_bmm_cases(l);
    add_box_loss_cases(l);
    add_conv_cases(l);
    add_cosine_cases(l);
    add_cross_entropy_cases(l);
    add_dropout_cases(l);
    add_element_loss_cases(l);
    add_embedding_cases(l);
    add_index_cases(l);
    add_layout_cases(l);
    add_matmul_cases(l);
    add_norm_cases(l);
    add_pointwise_cases(l);
    add_pool_cases(l);
    add_position_cases(l);
    add_prelu_cases(l);
    add_reduce_cases(l);
    add_resize_cases(l);
    add_rope_cases(l);
    add_row_loss_cases(l);
    add_segment_cases(l);
    add_select_cases(l);
    add_softmax_cases(l);
    add_window_cases(l);
    return l;
  }();
  return list;
}

}  // namespace tpo::optest
