"""Shortened texts of compiled programs: the TPU and GPU compilers' output for a training step."""

# Shortened output of the TPU compiler: a loop with an all-gather spread over fusions, a fused reduce-scatter, products
# as convolutions, and a sum over two slices of four chips.
TPU_PROGRAM = """HloModule jit_step, is_scheduled=true, num_partitions=8

FileNames
1 "/somewhere/sit_jax/model/vit.py"
2 "/site-packages/flax/nnx/nn/linear.py"

FunctionNames
1 "Block.__call__"

FileLocations
1 {file_name_id=1 function_name_id=1 line=91 end_line=91 column=1 end_column=9}
2 {file_name_id=2 function_name_id=1 line=422 end_line=422 column=1 end_column=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%start (param_0.1: bf16[16,128]) -> (bf16[16,128], bf16[64,128], u32[]) {
  %param_0.1 = bf16[16,128]{1,0:T(8,128)(2,1)} parameter(0)
  %all-gather.1 = bf16[64,128]{1,0:T(8,128)(2,1)} all-gather(%param_0.1), channel_id=4, replica_groups=mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_0'}, dimensions={0}, use_global_device_ids=true, frontend_attributes={chain_id="0"}, metadata={op_name="jit(step)/while/body/dot_general" stack_frame_id=2}
  ROOT %custom-call.1 = (bf16[16,128]{1,0}, bf16[64,128]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) custom-call(%param_0.1, %all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.1 (param_0.2: bf16[16,128], param_1.2: bf16[64,128], param_2.2: bf16[16,6,18,64], param_3.2: bf16[16,6,18,64]) -> (f32[16,6,18,18], bf16[64,128]) {
  %param_0.2 = bf16[16,128]{1,0:T(8,128)(2,1)} parameter(0)
  %param_1.2 = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(1)
  %param_2.2 = bf16[16,6,18,64]{3,2,1,0:T(8,128)(2,1)} parameter(2)
  %param_3.2 = bf16[16,6,18,64]{3,2,1,0:T(8,128)(2,1)S(1)} parameter(3)
  %convolution.1 = f32[16,6,18,18]{2,3,1,0:T(8,128)} convolution(%param_2.2, %param_3.2), window={size=16x6 stride=15x5 lhs_dilate=16x6}, dim_labels=01bf_01oi->01bf
  %all-gather.2 = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} all-gather(%param_0.2), channel_id=4, replica_groups=mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_0'}, dimensions={0}, use_global_device_ids=true, frontend_attributes={chain_id="0"}
  ROOT %tuple.1 = (f32[16,6,18,18]{2,3,1,0:T(8,128)}, bf16[64,128]{1,0:T(8,128)(2,1)}) tuple(%convolution.1, %param_1.2)
}

%all-reduce-scatter.1 (input.1: f32[256,128]) -> f32[64,128] {
  %input.1 = f32[256,128]{1,0:T(8,128)S(1)} parameter(0)
  %all-reduce.1 = f32[256,128]{1,0:T(8,128)} all-reduce(%input.1), channel_id=5, replica_groups={{0,1,2,3},{4,5,6,7}}, use_global_device_ids=true, to_apply=%add
  %offset = s32[] constant(0)
  ROOT %dynamic-slice.1 = f32[64,128]{1,0:T(8,128)S(1)} dynamic-slice(%all-reduce.1, %offset, %offset), dynamic_slice_sizes={64,128}
}

%condition (state.1: (s32[], bf16[16,128])) -> pred[] {
  %constant.12 = s32[]{:T(128)} constant(12)
  %state.1 = (s32[]{:T(128)}, bf16[16,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %get-tuple-element.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%get-tuple-element.1, %constant.12), direction=LT
}

%body (state.2: (s32[], bf16[16,128], /*index=2*/bf16[16,6,18,64])) -> (s32[], bf16[16,128]) {
  %state.2 = (s32[]{:T(128)}, bf16[16,128]{1,0:T(8,128)(2,1)}, /*index=2*/bf16[16,6,18,64]{3,2,1,0}) parameter(0)
  %get-tuple-element.2 = bf16[16,128]{1,0:T(8,128)(2,1)} get-tuple-element(%state.2), index=1
  %get-tuple-element.3 = bf16[16,6,18,64]{3,2,1,0:T(8,128)(2,1)} get-tuple-element(%state.2), index=2
  %async-collective-start = (bf16[16,128]{1,0}, bf16[64,128]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) fusion(%get-tuple-element.2), kind=kCustom, calls=%start
  %get-tuple-element.4 = bf16[64,128]{1,0:T(8,128)(2,1)} get-tuple-element(%async-collective-start), index=1
  %fusion.1 = (f32[16,6,18,18]{2,3,1,0:T(8,128)}, bf16[64,128]{1,0:T(8,128)(2,1)}) fusion(%get-tuple-element.2, %get-tuple-element.4, %get-tuple-element.3, %get-tuple-element.3), kind=kOutput, calls=%async_collective_fusion.1
  %counter = s32[]{:T(128)} get-tuple-element(%state.2), index=0
  ROOT %tuple.2 = (s32[]{:T(128)}, bf16[16,128]{1,0:T(8,128)(2,1)}) tuple(%counter, %get-tuple-element.2)
}

ENTRY %main (param.1: f32[256,128], param.2: f32[64,64]) -> f32[64,128] {
  %param.1 = f32[256,128]{1,0:T(8,128)} parameter(0)
  %param.2 = f32[64,64]{1,0:T(8,128)} parameter(1)
  %init = (s32[]{:T(128)}, bf16[16,128]{1,0:T(8,128)(2,1)}) custom-call(), custom_call_target="Init"
  %while.1 = (s32[]{:T(128)}, bf16[16,128]{1,0:T(8,128)(2,1)}) while(%init), condition=%condition, body=%body
  %convolution.2 = f32[64,64]{1,0:T(8,128)S(1)} convolution(%param.2, %param.2), dim_labels=bf_oi->bf, operand_precision={highest,highest}
  %collective-permute-start.1 = (f32[64,64]{1,0}, f32[64,64]{1,0}, u32[]{:S(2)}) collective-permute-start(%convolution.2), channel_id=6, source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  %collective-permute-done.1 = f32[64,64]{1,0} collective-permute-done(%collective-permute-start.1)
  %fusion.2 = f32[64,128]{1,0:T(8,128)S(1)} fusion(%param.1), kind=kCustom, calls=%all-reduce-scatter.1, metadata={op_name="jit(step)/reduce" stack_frame_id=1}
  %after-all.1 = token[] after-all()
  %send.1 = (f32[64,128]{1,0}, u32[], token[]) send(%fusion.2, %after-all.1), channel_id=7, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_transfer_type="ALL_REDUCE"}
  %send-done.1 = token[] send-done(%send.1), channel_id=7
  ROOT %copy.1 = f32[64,128]{1,0:T(8,128)} copy(%fusion.2)
}
"""  # noqa: E501

# Shortened output of the compiler for an H100: a loop over layers that loads stored values during other work, products
# as calls of cuBLASLt (one with the slice of its weights), a product as a Triton kernel, attention by cuDNN, and
# collectives of eight GPUs.
GPU_PROGRAM = """HloModule jit_train_step, is_scheduled=true, num_partitions=8

FileNames
1 "/somewhere/sit_jax/train/step.py"
2 "/somewhere/sit_jax/model/vit.py"
3 "/site-packages/flax/nnx/nn/linear.py"
4 "/somewhere/sit_jax/model/fast/norm.py"
5 "/somewhere/sit_jax/model/fast/layers.py"
6 "/somewhere/sit_jax/model/fast/dense.py"

FunctionNames
1 "make_train_step.<locals>.train_step"
2 "_run"
3 "Block.__call__"
4 "Attention.__call__"
5 "rows"
6 "Linear.__call__"
7 "layer_norm"

FileLocations
1 {file_name_id=1 function_name_id=1 line=99 end_line=99 column=1 end_column=9}
2 {file_name_id=5 function_name_id=2 line=210 end_line=210 column=1 end_column=9}
3 {file_name_id=2 function_name_id=3 line=91 end_line=91 column=1 end_column=9}
4 {file_name_id=2 function_name_id=4 line=60 end_line=60 column=1 end_column=9}
5 {file_name_id=6 function_name_id=5 line=70 end_line=70 column=1 end_column=9}
6 {file_name_id=3 function_name_id=6 line=422 end_line=422 column=1 end_column=9}
7 {file_name_id=4 function_name_id=7 line=20 end_line=20 column=1 end_column=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}
4 {file_location_id=4 parent_frame_id=4}
5 {file_location_id=5 parent_frame_id=4}
6 {file_location_id=6 parent_frame_id=6}
7 {file_location_id=7 parent_frame_id=4}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused_broadcast () -> bf16[12,24,64] {
  %zero = bf16[] constant(0)
  ROOT %broadcast.1 = bf16[12,24,64]{2,1,0} broadcast(%zero), dimensions={}
}

%fused_dynamic_slice.1 (param_0.1: bf16[12,24,64], param_1.1: s32[]) -> bf16[1,24,64] {
  %param_0.1 = bf16[12,24,64]{2,1,0} parameter(0)
  %param_1.1 = s32[] parameter(1)
  %constant.1 = s32[] constant(0)
  ROOT %dynamic_slice.1 = bf16[1,24,64]{2,1,0} dynamic-slice(%param_0.1, %param_1.1, %constant.1, %constant.1), dynamic_slice_sizes={1,24,64}, metadata={op_name="jit(train_step)/transpose(jvp())/while/body/jit(dynamic_index_in_dim)/dynamic_slice" stack_frame_id=2}
}

%dynamic-slice-fusion (p0: bf16[12,128,64], p1: s32[], p2: bf16[24,64]) -> (bf16[24,128], s8[4194304]) {
  %p2 = bf16[24,64]{1,0} parameter(2)
  %p0 = bf16[12,128,64]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %constant.2 = s32[] constant(0)
  %dynamic_slice.2 = bf16[1,128,64]{2,1,0} dynamic-slice(%p0, %p1, %constant.2, %constant.2), dynamic_slice_sizes={1,128,64}
  %bitcast.1 = bf16[128,64]{1,0} bitcast(%dynamic_slice.2)
  ROOT %custom-call.1 = (bf16[24,128]{1,0}, s8[4194304]{0}) custom-call(%p2, %bitcast.1), custom_call_target="__cublas$lt$matmul", metadata={op_name="jit(train_step)/transpose(jvp())/while/body/eval_jaxpr/dot_general" stack_frame_id=6}, backend_config={"operation_queue_id":"0","gemm_backend_config":{"alpha_real":1,"beta":0,"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["1"],"lhs_batch_dimensions":[],"rhs_batch_dimensions":[]},"precision_config":{"operand_precision":["DEFAULT","DEFAULT"],"algorithm":"ALG_UNSET"},"epilogue":"DEFAULT"}}
}

%gemm_fusion (parameter_0: bf16[24,64], parameter_1: bf16[64,64]) -> bf16[24,64] {
  %parameter_0 = bf16[24,64]{1,0} parameter(0)
  %parameter_1 = bf16[64,64]{1,0} parameter(1)
  ROOT %dot.1 = bf16[24,64]{1,0} dot(%parameter_0, %parameter_1), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="jit(train_step)/jvp()/eval_jaxpr/dot_general" stack_frame_id=6}
}

%wrapped_concatenate (c0: bf16[512], c1: bf16[8,64]) -> bf16[1024] {
  %c0 = bf16[512]{0} parameter(0)
  %c1 = bf16[8,64]{1,0} parameter(1)
  %flat = bf16[512]{0} bitcast(%c1)
  ROOT %concatenate.1 = bf16[1024]{0} concatenate(%c0, %flat), dimensions={0}
}

%condition (state.1: (s32[], bf16[12,24,64], bf16[12,128,64], bf16[24,64])) -> pred[] {
  %constant.12 = s32[] constant(12)
  %state.1 = (s32[], bf16[12,24,64]{2,1,0}, bf16[12,128,64]{2,1,0}, bf16[24,64]{1,0}) parameter(0)
  %get-tuple-element.1 = s32[] get-tuple-element(%state.1), index=0
  ROOT %lt.1 = pred[] compare(%get-tuple-element.1, %constant.12), direction=LT
}

%body (state.2: (s32[], bf16[12,24,64], bf16[12,128,64], bf16[24,64])) -> (s32[], bf16[12,24,64], bf16[12,128,64], bf16[24,64]) {
  %state.2 = (s32[], bf16[12,24,64]{2,1,0}, bf16[12,128,64]{2,1,0}, bf16[24,64]{1,0}) parameter(0)
  %counter = s32[] get-tuple-element(%state.2), index=0
  %saved = bf16[12,24,64]{2,1,0} get-tuple-element(%state.2), index=1
  %weights = bf16[12,128,64]{2,1,0} get-tuple-element(%state.2), index=2
  %x = bf16[24,64]{1,0} get-tuple-element(%state.2), index=3
  %fusion-start.1 = ((bf16[12,24,64]{2,1,0}, s32[]), bf16[1,24,64]{2,1,0}, u32[]) fusion-start(%saved, %counter), kind=kLoop, calls=%fused_dynamic_slice.1, metadata={op_name="jit(train_step)/transpose(jvp())/while/body/jit(dynamic_index_in_dim)/dynamic_slice" stack_frame_id=2}
  %dynamic_slice_fusion.1 = (bf16[24,128]{1,0}, s8[4194304]{0}) fusion(%weights, %counter, %x), kind=kCustom, calls=%dynamic-slice-fusion
  %fusion-done.1 = bf16[1,24,64]{2,1,0} fusion-done(%fusion-start.1)
  %bitcast.2 = bf16[24,64]{1,0} bitcast(%fusion-done.1)
  ROOT %tuple.2 = (s32[], bf16[12,24,64]{2,1,0}, bf16[12,128,64]{2,1,0}, bf16[24,64]{1,0}) tuple(%counter, %saved, %weights, %bitcast.2)
}

ENTRY %main (weights.1: bf16[12,128,64], x.1: bf16[24,64], square: bf16[64,64], q: bf16[4,6,2,32], images: f32[8,64,16], shard: bf16[8,64], whole: bf16[512,64]) -> bf16[24,64] {
  %weights.1 = bf16[12,128,64]{2,1,0} parameter(0)
  %x.1 = bf16[24,64]{1,0} parameter(1)
  %square = bf16[64,64]{1,0} parameter(2)
  %q = bf16[4,6,2,32]{3,2,1,0} parameter(3)
  %images = f32[8,64,16]{2,1,0} parameter(4)
  %shard = bf16[8,64]{1,0} parameter(5)
  %whole = bf16[512,64]{1,0} parameter(6)
  %zero.1 = s32[] constant(0)
  %loop_broadcast_fusion = bf16[12,24,64]{2,1,0} fusion(), kind=kLoop, calls=%fused_broadcast
  %tuple.1 = (s32[], bf16[12,24,64]{2,1,0}, bf16[12,128,64]{2,1,0}, bf16[24,64]{1,0}) tuple(%zero.1, %loop_broadcast_fusion, %weights.1, %x.1)
  %while.1 = (s32[], bf16[12,24,64]{2,1,0}, bf16[12,128,64]{2,1,0}, bf16[24,64]{1,0}) while(%tuple.1), condition=%condition, body=%body, metadata={op_name="jit(train_step)/jvp()/while" stack_frame_id=2}
  %gemm_fusion_dot.1 = bf16[24,64]{1,0} fusion(%x.1, %square), kind=kCustom, calls=%gemm_fusion, metadata={op_name="jit(train_step)/jvp()/eval_jaxpr/dot_general" stack_frame_id=6}, backend_config={"fusion_backend_config":{"kind":"__triton_nested_gemm_fusion"}}
  %cublas-gemm.1 = (f32[8,16,16]{2,1,0}, s8[4194304]{0}) custom-call(%images, %images), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["1"],"lhs_batch_dimensions":["0"],"rhs_batch_dimensions":["0"]},"precision_config":{"operand_precision":["HIGHEST","HIGHEST"]}}}
  %attention.1 = (bf16[4,2,6,32]{3,1,2,0}, f32[4,2,6]{2,1,0}, u8[0]{0}) custom-call(%q, %q, %q), custom_call_target="__cudnn$fmhaSoftmax", metadata={op_name="jit(train_step)/jvp()/eval_jaxpr/dot_product_attention_fwd" stack_frame_id=4}, backend_config={"cudnn_fmha_backend_config": {"algorithm": {"algo_id": "0", "tuning_knobs": {"17": "1", "24": "0"}}, "fmha_scale": 0.125, "intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["4", "2", "6", "6"], "tuple_shapes": []}, "bmm1_dot_dimension_numbers": {"lhs_contracting_dimensions": ["3"]}}}
  %means = bf16[4,2,6,32]{3,1,2,0} get-tuple-element(%attention.1), index=0
  %sums = f32[4,2,6]{2,1,0} get-tuple-element(%attention.1), index=1
  %attention.2 = (bf16[4,2,6,32]{3,1,2,0}, bf16[4,2,6,32]{3,1,2,0}, bf16[4,2,6,32]{3,1,2,0}, u8[4096]{0}) custom-call(%q, %q, %q, %sums, %means, /*index=5*/%means), custom_call_target="__cudnn$fmhaSoftmaxBackward", metadata={op_name="jit(train_step)/transpose(jvp())/eval_jaxpr/dot_product_attention_bwd" stack_frame_id=4}, backend_config={"cudnn_fmha_backend_config": {"intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["4", "2", "6", "6"], "tuple_shapes": []}}}
  %all-gather-start.1 = ((bf16[8,64]{1,0}, bf16[8,64]{1,0}), (bf16[64,64]{1,0}, bf16[64,64]{1,0})) all-gather-start(%shard, %shard), channel_id=1, replica_groups=mesh['axis_0'=8] {'axis_0'}, dimensions={0}, use_global_device_ids=true, metadata={op_name="jit(train_step)/jvp()/eval_jaxpr/convert_element_type" stack_frame_id=6}
  %all-gather-done.1 = (bf16[64,64]{1,0}, bf16[64,64]{1,0}) all-gather-done(%all-gather-start.1)
  %reduce-scatter-start.1 = ((bf16[512,64]{1,0}), bf16[64,64]{1,0}) reduce-scatter-start(%whole), channel_id=2, replica_groups=mesh['axis_0'=8] {'axis_0'}, use_global_device_ids=true, dimensions={0}, to_apply=%add
  %reduce-scatter-done.1 = bf16[64,64]{1,0} reduce-scatter-done(%reduce-scatter-start.1)
  %bias = bf16[512]{0} bitcast(%shard)
  %concatenate_fusion = bf16[1024]{0} fusion(%bias, %shard), kind=kLoop, calls=%wrapped_concatenate
  %all-reduce-start.1 = bf16[1024]{0} all-reduce-start(%concatenate_fusion), channel_id=3, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  %all-reduce-done.1 = bf16[1024]{0} all-reduce-done(%all-reduce-start.1)
  ROOT %norm.1 = bf16[24,64]{1,0} add(%x.1, %gemm_fusion_dot.1), metadata={op_name="jit(train_step)/jvp()/eval_jaxpr/add" stack_frame_id=7}
}
"""  # noqa: E501
